// What a page does beyond being read: charts that answer to the pointer, groups that are chosen, tables that sort.
(() => {
  'use strict';
  const dark = () => matchMedia('(prefers-color-scheme: dark)').matches;
  const boxes = section => [...section.querySelectorAll('.choice input')];

  // A specification holds the groups that it draws as "domain" of its scales and as "oneOf" of its filters.
  function specification(figure) {
    const all = boxes(figure.closest('section'));
    const first = JSON.stringify(all.filter(box => box.defaultChecked).map(box => box.value));
    const chosen = all.filter(box => box.checked).map(box => box.value);
    const columns = Math.max(1, Math.floor((figure.clientWidth - 80) / 240));  // of legends
    return JSON.parse(figure.querySelector('.spec').textContent, (key, value) =>
      (key === 'domain' || key === 'oneOf') && JSON.stringify(value) === first ? chosen : key === 'columns' ? columns : value);
  }
  async function draw(figure) {
    const place = figure.querySelector('.live');
    place.hidden = false;
    const options = {renderer: 'svg', actions: false, tooltip: {theme: dark() ? 'dark' : 'light'}};
    await vegaEmbed(place, specification(figure), options);
    for (const name of ['role', 'aria-label']) place.removeAttribute(name);  // the chart around it has both
    for (const svg of place.querySelectorAll('svg')) svg.setAttribute('aria-hidden', 'true');
    for (const still of figure.querySelectorAll('.still')) still.remove();
  }
  const redraw = figure => draw(figure).catch(error => console.error(error));
  const seen = new IntersectionObserver(entries => {
    for (const entry of entries.filter(one => one.isIntersecting)) {
      seen.unobserve(entry.target);
      redraw(entry.target);
    }
  }, {rootMargin: '600px'});
  for (const figure of document.querySelectorAll('.figure')) seen.observe(figure);

  for (const choice of document.querySelectorAll('.choice')) {
    choice.hidden = false;
    const section = choice.closest('section'), all = boxes(section);
    const limit = () => {
      const checked = all.filter(box => box.checked).length;
      for (const box of all) box.disabled = box.checked ? checked === 1 : checked >= Number(choice.dataset.most);
    };
    limit();
    choice.addEventListener('change', () => {
      limit();
      for (const figure of section.querySelectorAll('.figure')) if (!figure.querySelector('.still')) redraw(figure);
    });
  }

  let resized;
  addEventListener('resize', () => {
    clearTimeout(resized);
    const live = [...document.querySelectorAll('.figure')].filter(figure => !figure.querySelector('.still'));
    resized = setTimeout(() => live.forEach(redraw), 300);
  });

  const collator = new Intl.Collator(undefined, {numeric: true});
  const number = text => text === '-' ? -Infinity : /^[+−-]?[\d,]/.test(text) ? parseFloat(text.replace('−', '-').replaceAll(',', '')) : NaN;
  for (const table of document.querySelectorAll('table.sortable')) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener('click', () => {
        const rows = [...table.tBodies[0].rows], text = row => row.cells[column].textContent.trim();
        const words = column === 0 || rows.some(row => Number.isNaN(number(text(row))));
        const up = head.ariaSort === 'none' || !head.ariaSort ? words : head.ariaSort !== 'ascending';
        const order = (a, b) => words ? collator.compare(text(a), text(b)) : number(text(a)) - number(text(b));
        table.tBodies[0].append(...rows.sort((a, b) => up ? order(a, b) : order(b, a)));
        for (const other of heads) other.ariaSort = 'none';
        head.ariaSort = up ? 'ascending' : 'descending';
      });
    });
  }
})();
