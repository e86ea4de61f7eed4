// What a page does beyond being read: charts that answer to the pointer, tables that sort, classes of two chosen groups.
(() => {
  'use strict';
  const views = new Map();
  const dark = () => matchMedia('(prefers-color-scheme: dark)').matches;

  async function draw(figure) {
    const place = figure.querySelector('.live');
    const spec = JSON.parse(figure.querySelector('.spec').textContent);
    place.hidden = false;
    const made = await vegaEmbed(place, spec, {renderer: 'svg', actions: false, tooltip: {theme: dark() ? 'dark' : 'light'}});
    for (const name of ['role', 'aria-label']) place.removeAttribute(name);  // the chart around it has both
    for (const svg of place.querySelectorAll('svg')) svg.setAttribute('aria-hidden', 'true');
    for (const still of figure.querySelectorAll('.still')) still.remove();
    views.set(figure.id, made.view);
    const waiting = figure.waiting;
    if (waiting) waiting(made.view);
  }
  const seen = new IntersectionObserver(entries => {
    for (const entry of entries.filter(one => one.isIntersecting)) {
      seen.unobserve(entry.target);
      draw(entry.target).catch(error => console.error(error));
    }
  }, {rootMargin: '600px'});
  for (const figure of document.querySelectorAll('.figure')) seen.observe(figure);

  const collator = new Intl.Collator(undefined, {numeric: true});
  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute('aria-sort', 'none');
      const words = () => [...table.tBodies[0].rows].every(row => row.cells[column].dataset.value === undefined);
      button.addEventListener('click', () => {
        const first = words() ? 'ascending' : 'descending';  // a click more turns it round
        const up = (head.getAttribute('aria-sort') === first) === (first === 'descending');
        const value = row => row.cells[column].dataset.value;
        const order = (a, b) => {
          const [x, y] = [value(a), value(b)];
          if (x === undefined || y === undefined) {
            if (x !== y) return x === undefined ? 1 : -1;
            const after = collator.compare(a.cells[column].textContent, b.cells[column].textContent);
            return up ? after : -after;
          }
          if (x === '' || y === '') return (x === '') - (y === '');  // what has no figure comes last
          return up ? x - y : y - x;
        };
        const rows = [...table.tBodies[0].rows].sort(order);
        table.tBodies[0].append(...rows);
        for (const other of heads) other.setAttribute('aria-sort', 'none');
        head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      });
    });
  }
  for (const table of document.querySelectorAll('table.sortable')) sortable(table);

  const MOST = 200;
  const figures = value => value === null ? '-' : value.toFixed(2);
  const said = value => value.toLocaleString('en-US');
  const signed = value => value === null ? '-' : (value > 0 ? '+' : value < 0 ? '\u2212' : '') + Math.abs(value).toFixed(2);
  // The parts of a name, which may be broken after its signs; as page.py does it.
  const breakable = name => name.split(/(?<=[_+=\/.,-])(?=.)/).flatMap((part, i) => i ? [document.createElement('wbr'), part] : [part]);
  function cell(row, text, value, head) {
    const made = document.createElement(head ? 'th' : 'td');
    if (head) {
      made.scope = 'row';
      made.dir = 'auto';
    } else {
      made.className = 'number';
      made.dataset.value = value === null ? '' : value;
    }
    made.append(...(head ? breakable(text) : [text]));
    row.append(made);
  }

  for (const source of document.querySelectorAll('script.classes')) {
    const data = JSON.parse(source.textContent);
    const section = document.getElementById(source.dataset.setting);
    const table = section.querySelector('table[data-filtered]');
    const search = section.querySelector('.search');
    const choice = section.querySelector('.choice');
    let pair = data.pair;
    const gap = k => {
      const [a, b] = pair.map(name => data.means[name][k]);
      return a === null || b === null ? null : a - b;
    };
    function fill() {
      const wanted = search.querySelector('input').value.trim().toLowerCase();
      let chosen = data.order.filter(k => !wanted || data.names[k].toLowerCase().includes(wanted));
      if (chosen.length > MOST) {
        if (wanted || !pair) chosen = chosen.slice(0, MOST);
        else {
          const ranked = chosen.filter(k => gap(k) !== null).sort((a, b) => gap(b) - gap(a));
          const ends = new Set([...ranked.slice(0, MOST / 2), ...ranked.slice(-MOST / 2)]);
          chosen = chosen.filter(k => ends.has(k));
        }
      }
      const shown = pair ?? data.shown;
      table.tBodies[0].replaceChildren(...chosen.map(k => {
        const row = document.createElement('tr');
        cell(row, data.names[k], null, true);
        cell(row, String(data.train[k]), data.train[k]);
        if (data.test) cell(row, String(data.test[k]), data.test[k]);
        for (const name of shown) cell(row, figures(data.means[name][k]), data.means[name][k]);
        if (pair) cell(row, signed(gap(k)), gap(k));
        return row;
      }));
      for (const head of table.tHead.rows[0].cells) head.setAttribute('aria-sort', 'none');
    }
    function compare() {
      const heads = table.tHead.rows[0].cells;
      const first = data.test ? 3 : 2;
      pair.forEach((name, i) => { heads[first + i].querySelector('button').replaceChildren(...breakable(name)); });
      const gaps = data.order.map(k => gap(k));
      const better = gaps.filter(g => g > 0).length, worse = gaps.filter(g => g !== null && g < 0).length;
      const same = gaps.filter(g => g === 0).length;
      section.querySelector('.pair').textContent =
        `${pair[0]} against ${pair[1]}: ${said(better)} classes better, ${said(worse)} worse, ${said(same)} the same.`;
      const values = [];
      if (data.bins) {
        for (const [place, begin, end] of data.bins) {
          const there = gaps.slice(begin, end).filter(g => g !== null);
          if (there.length) values.push({place, gap: there.reduce((a, b) => a + b, 0) / there.length});
        }
      } else gaps.forEach((g, i) => { if (g !== null) values.push({place: i + 1, gap: g, class: data.names[data.order[i]]}); });
      const figure = document.getElementById(`${source.dataset.setting}-differences`);
      const words = `Difference of each class. ${pair[0]} against ${pair[1]}: ${said(better)} classes are better, ${said(worse)} worse.`;
      figure.querySelector('.chart').setAttribute('aria-label', words);
      figure.querySelector('.said p').textContent = words;
      const update = view => view.data('gaps', values).runAsync();
      const view = views.get(figure.id);
      if (view) update(view); else figure.waiting = update;
      fill();
    }
    search.hidden = false;
    search.querySelector('input').addEventListener('input', fill);
    if (choice) {
      choice.hidden = false;
      const selects = [choice.querySelector('.first'), choice.querySelector('.second')];
      for (const select of selects) select.addEventListener('change', () => {
        pair = selects.map(one => one.value);
        compare();
      });
    }
  }
})();
