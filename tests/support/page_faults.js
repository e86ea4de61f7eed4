// What a reader would find wrong with a page as it is shown: a list of words for each kind of fault.
// What is not shown, or made for screen readers alone, is left aside.
() => {
  const SMALLEST = 12;  // CSS pixels of any text
  const NARROWEST = 100, LOWEST = 50;  // of a chart
  const SPACE = 2, CLEAR = 4;  // at least, between labels on a line; at most, of the empty margins of their boxes
  const root = document.documentElement, width = root.clientWidth;
  const all = selector => [...document.querySelectorAll(selector)];
  const box = e => e.getBoundingClientRect();
  const visible = {visibilityProperty: true, opacityProperty: true};
  const shown = e => e.checkVisibility(visible) && box(e).width > 1 && box(e).height > 1;
  const text = e => e.textContent.trim().replace(/\s+/g, ' ').slice(0, 50);
  const words = e => `<${e.tagName.toLowerCase()}${e.id && ' #' + e.id} class="${e.getAttribute('class') ?? ''}"> ${text(e)}`;
  const faults = {sideways: [], cut: [], small: [], overlapping: [], headings: [], tables: [], charts: [], silent: [],
                  twice: [], scheme: []};

  // An element around it moves or cuts what is too wide: `cut` sees the latter.
  const held = e => {
    for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
      if (getComputedStyle(p).overflowX !== 'visible') return true;
    return false;
  };
  // What stands wholly to the left of the page is for those who come to it by the keyboard.
  if (root.scrollWidth > width) faults.sideways.push(`the page is ${root.scrollWidth} wide, its window ${width}`);
  for (const e of all('body *')) {
    if (!shown(e) || (e.closest('svg') ?? e) !== e || held(e)) continue;
    const [left, right] = [box(e).left + scrollX, box(e).right + scrollX].map(Math.round);
    if (right > width || (left < 0 && right > 0)) faults.sideways.push(`${words(e)}: ${left} to ${right} of ${width}`);
  }

  const hides = value => ['hidden', 'clip'].includes(value);
  for (const e of all('body *')) {
    if (!shown(e) || e.closest('svg')) continue;
    const style = getComputedStyle(e);
    const across = hides(style.overflowX) && e.scrollWidth > e.clientWidth + 1;
    if (across || (hides(style.overflowY) && e.scrollHeight > e.clientHeight + 1)) faults.cut.push(words(e));
    const says = e.matches('input, select') || [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (says && parseFloat(style.fontSize) < SMALLEST - 0.01) faults.small.push(`${words(e)}: ${style.fontSize}`);
  }

  for (const svg of all('svg').filter(shown)) {
    const frame = box(svg), flat = [];
    for (const label of [...svg.querySelectorAll('text')].filter(t => text(t) && shown(t))) {
      const place = box(label), matrix = label.getScreenCTM(), said = `"${text(label)}" in a picture of ${
        svg.closest('[id]')?.id}`;
      const size = parseFloat(getComputedStyle(label).fontSize) * Math.hypot(matrix.a, matrix.b);
      const beyond = [frame.left - place.left, place.right - frame.right, frame.top - place.top, place.bottom - frame.bottom];
      if (Math.max(...beyond) > 1) faults.cut.push(`${said} by ${Math.max(...beyond).toFixed(1)}px`);
      if (size < SMALLEST - 0.05) faults.small.push(`${said}: ${size.toFixed(1)}px`);
      if (Math.min(Math.abs(matrix.a), Math.abs(matrix.b)) > 1e-6) continue;  // aslant: its box is larger than it is
      for (const [other, there] of flat) {
        const over = Math.min(place.right, there.right) - Math.max(place.left, there.left);
        const down = Math.min(place.bottom, there.bottom) - Math.max(place.top, there.top);
        if (over > -SPACE && down > CLEAR) faults.overlapping.push(`${said}: over "${other}"`);
      }
      flat.push([text(label), place]);
    }
  }

  let level = 0;
  if (all('h1').length !== 1) faults.headings.push(`${all('h1').length} h1`);
  for (const e of all('h1, h2, h3, h4, h5, h6')) {
    const now = Number(e.tagName[1]);
    if (now > level + 1) faults.headings.push(`${words(e)} after a heading of level ${level}`);
    if (!text(e)) faults.headings.push(`an empty ${e.tagName}`);
    level = now;
  }

  for (const table of all('table')) {
    const heads = [...table.querySelectorAll('th')];
    const scoped = th => ['col', 'row', 'colgroup', 'rowgroup'].includes(th.getAttribute('scope'));
    if (!heads.length) faults.tables.push(`${words(table)}: no th`);
    for (const th of heads.filter(th => !scoped(th))) faults.tables.push(`${words(th)}: no scope`);
    if (!table.caption || !text(table.caption)) faults.tables.push(`${words(table)}: no caption`);
    const columns = table.rows[0]?.cells.length;
    for (const row of table.rows) if (row.cells.length !== columns) faults.tables.push(`${words(row)}: not ${columns} cells`);
  }

  if (!all('.chart').length) faults.charts.push('no chart');
  for (const chart of all('.chart')) {
    const pictures = [...chart.querySelectorAll('svg')];
    const seen = pictures.filter(shown).filter(svg => box(svg).width >= NARROWEST && box(svg).height >= LOWEST);
    const place = chart.closest('[id]')?.id;
    if (seen.length !== 1) faults.charts.push(`${place}: ${seen.length} pictures are shown of ${pictures.length}`);
    if (seen.some(svg => !svg.querySelector('path[d], line, rect, circle'))) faults.charts.push(`${place}: an empty picture`);
    const name = chart.getAttribute('aria-label') ?? '';
    if (chart.getAttribute('role') !== 'img' || name.trim().length < 20) faults.silent.push(`${place}: called "${name}"`);
  }
  for (const image of all('img')) {
    if (!image.hasAttribute('alt')) faults.silent.push(`${image.outerHTML.slice(0, 60)}: no alt`);
    if (image.complete && !image.naturalWidth) faults.charts.push(`${image.outerHTML.slice(0, 60)}: broken`);
  }

  const ids = all('[id]').map(e => e.id);
  faults.twice.push(...new Set(ids.filter((id, i) => ids.indexOf(id) !== i)));

  const backs = [document.body, root].map(e => getComputedStyle(e).backgroundColor.match(/[\d.]+/g).map(Number));
  const back = backs.find(colour => colour[3] !== 0) ?? [255, 255, 255];
  const light = (0.299 * back[0] + 0.587 * back[1] + 0.114 * back[2]) / 255;
  const wanted = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
  if ((wanted === 'light') !== light > 0.5) faults.scheme.push(`its reader prefers ${wanted}, it is ${light.toFixed(2)} light`);
  return faults;
}
