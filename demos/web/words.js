// The page's words in the visitor's language, and its pictograms.

const ICONS = {
  open: 'M3 7h6l2 2h10v10H3z', undo: 'M8 5 4 9l4 4M4 9h9a6 6 0 0 1 0 12H9', redo: 'M16 5l4 4-4 4M20 9h-9a6 6 0 0 0 0 12h4',
  before: 'M12 3v18M4 6h5v12H4zM15 6h5v12h-5', download: 'M12 4v11M7 11l5 5 5-5M4 20h16',
  brush: 'M20 4 10 14M10 14c-3-1-5 1-5 3s-2 3-2 3c5 1 9-1 8-5', eraser: 'M8 20h12M4 15 14 5l6 6-9 9H8z',
  box: 'M4 5h16v14H4z', hand: 'M12 3v18M3 12h18M12 3 9 6M12 3l3 3M12 21l-3-3M12 21l3-3M3 12l3-3M3 12l3 3M21 12l-3-3M21 12l-3 3',
  numbers: 'M4 5h16v14H4zM8 9v6M12 9h4v3h-4v3h4', clear: 'M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13',
  out: 'M4 11a7 7 0 1 0 14 0 7 7 0 1 0-14 0M16 16l5 5M8 11h6', in: 'M4 11a7 7 0 1 0 14 0 7 7 0 1 0-14 0M16 16l5 5M8 11h6M11 8v6',
  fit: 'M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5', dice: 'M4 4h16v16H4zM8.5 8.5h.01M15.5 8.5h.01M12 12h.01M8.5 15.5h.01M15.5 15.5h.01',
  place: 'M5 5h14v14H5zM3 3h4v4H3zM17 3h4v4h-4zM3 17h4v4H3zM17 17h4v4h-4z',
  veil: 'M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12M9 12a3 3 0 1 0 6 0 3 3 0 1 0-6 0',
  another: 'M4 12a8 8 0 0 1 14-5l2 2M20 4v5h-5M20 12a8 8 0 0 1-14 5l-2-2M4 20v-5h5',
};

const translations = (window.gradio_config || {}).i18n_translations || {};
const language = (navigator.languages || [navigator.language]).map((each) => each.toLowerCase().split('-')[0])
  .find((each) => each === 'en' || each in translations) || 'en';
const words = translations[language] || {};
document.documentElement.lang = language;

// English is the key. Numbers in a sentence are # in the key.
function t(text) {
  if (!text || text in words) return words[text] || text || '';
  const numbers = [];
  const key = text.replace(/\d+(?:[.,]\d+)?/g, (number) => { numbers.push(number); return '#'; });
  return key in words ? words[key].replace(/#/g, () => numbers.shift()) : text;
}

function localise() {
  for (const each of all('button, label > span, legend, summary, [data-batch-help], #canvas-keys'))
    if (!each.children.length && each.textContent.trim()) each.textContent = t(each.textContent.trim().replace(/\s+/g, ' '));
  for (const each of all('[aria-label]')) each.setAttribute('aria-label', t(each.getAttribute('aria-label')));
  for (const each of all('[data-icon]')) {
    const name = each.textContent.trim(), svg = `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${ICONS[each.dataset.icon]}"/></svg>`;
    each.innerHTML = svg;
    if (each.classList.contains('named')) each.append(makeElement('span', {text: name}));
    each.setAttribute('aria-label', name);
    each.title = name;
  }
}
