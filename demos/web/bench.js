// The page: what the visitor does, what the server is asked, and what is shown. `stage.js` has the picture itself and
// `fields.js` the tasks' fields; the three run in one function, in which Gradio gives `element`, `props`, `server`,
// `trigger`, `upload` and `watch`.

const ICONS = {
  open: 'M3 7h6l2 2h10v10H3z', undo: 'M8 5 4 9l4 4M4 9h9a6 6 0 0 1 0 12H9', redo: 'M16 5l4 4-4 4M20 9h-9a6 6 0 0 0 0 12h4',
  before: 'M12 3v18M4 6h5v12H4zM15 6h5v12h-5', download: 'M12 4v11M7 11l5 5 5-5M4 20h16',
  brush: 'M20 4 10 14M10 14c-3-1-5 1-5 3s-2 3-2 3c5 1 9-1 8-5', eraser: 'M8 20h12M4 15 14 5l6 6-9 9H8z',
  box: 'M4 5h16v14H4z', hand: 'M12 3v18M3 12h18M12 3 9 6M12 3l3 3M12 21l-3-3M12 21l3-3M3 12l3-3M3 12l3 3M21 12l-3-3M21 12l-3 3',
  numbers: 'M4 5h16v14H4zM8 9v6M12 9h4v3h-4v3h4', clear: 'M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13',
  out: 'M4 11a7 7 0 1 0 14 0 7 7 0 1 0-14 0M16 16l5 5M8 11h6', in: 'M4 11a7 7 0 1 0 14 0 7 7 0 1 0-14 0M16 16l5 5M8 11h6M11 8v6',
  fit: 'M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5', dice: 'M4 4h16v16H4zM8.5 8.5h.01M15.5 8.5h.01M12 12h.01M8.5 15.5h.01M15.5 15.5h.01',
  veil: 'M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12M9 12a3 3 0 1 0 6 0 3 3 0 1 0-6 0',
  another: 'M4 12a8 8 0 0 1 14-5l2 2M20 4v5h-5M20 12a8 8 0 0 1-14 5l-2-2M4 20v-5h5',
};
const STORE = 'photofound'; // in the session's storage: what survives a reload, and no other visit
const LARGEST_SEED = 2 ** 31;

const root = element.querySelector('.bench');
const find = (what) => root.querySelector(what), all = (what) => [...root.querySelectorAll(what)];
const byDo = (name) => find(`[data-do="${name}"]`);
const part = (name) => find(`[data-part="${name}"]`);
const TASKS = new Map(props.tasks.map((task) => [task.name, task]));

// ------------------------------------------------------------------------------------------------------------- language

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

// ---------------------------------------------------------------------------------------------------------------- state

const now = {
  token: null, id: null, size: [0, 0], strip: [], can: {}, report: '',
  task: props.tasks[0].name, prompt: '', fields: {}, aspect: '', atOnce: true,
  settings: {seed: 0, variants: 1, steps: 0, guidance: props.guidance, model: props.model, lora: '', format: '', learn: props.learn},
  lora: null, batch: [],
};
let running = false, preparing = true, sequence = 0, wrong = false, shown = 0, poll = null;
const marksOf = new Map(); // id of a photograph -> its marks, so that they are there when it comes back
const task = () => TASKS.get(now.task);
const fieldsOf = () => (now.fields[now.task] ||= {});

const stage = makeStage(find('.view'), {
  marked(how) {
    stage.veiled = true;
    if (how === 'key' || how === 'box') say(t('Marked.'));
    if (how === 'undo' || how === 'redo' || how === 'clear') say('');
    changed();
    if (how === 'stroke' && task().name === 'erase' && now.atOnce && stage.tool === 'brush') run();
  },
  framed(frame, ended) {
    now.aspect = '';
    showMargins(frame);
    if (ended) changed();
  },
  pointed(x, y) { say(t(`${Math.round(100 * x)} % from the left, ${Math.round(100 * y)} % from the top`)); },
});

function remember() {
  const marks = marksOf.get(now.id);
  const kept = {...now, strip: [], marks: marks && marks.change ? {id: now.id, change: marks.change.url()} : null};
  try { sessionStorage.setItem(STORE, JSON.stringify(kept)); } catch { /* full or forbidden: a reload then starts anew */ }
}

// ------------------------------------------------------------------------------------------------------------ the server

// Ask a function of the server. What is wrong is said, and gives null.
async function ask(name, data = {}) {
  let answer;
  try {
    answer = await server[name]({token: now.token, ...data});
  } catch {
    answer = null;
  }
  if (!answer) answer = {error: 'the page cannot reach its server; try again'};
  for (const each of answer.warnings || []) toast(t(each));
  if (answer.error) fail(answer.error);
  return answer.error ? null : answer;
}

async function send(file) {
  if (file.size > props.largest) {
    fail(`${file.name}: is larger than this page takes`);
    return null;
  }
  try {
    const {path} = await upload(file);
    return {name: file.name, path};
  } catch {
    fail(`${file.name}: is larger than this page takes`);
    return null;
  }
}

const loaded = (url) => new Promise((done) => {
  if (!url) return done(null);
  const picture = new Image();
  picture.onload = () => done(picture);
  picture.onerror = () => done(null);
  picture.src = url;
});

// Show the desk that the server describes.
async function show(state, marks = null) {
  if (!state) return false;
  const mine = ++shown;
  const [photo, before, change] = await Promise.all([state.picture, state.before, marks && marks.change].map(loaded));
  if (mine !== shown) return false;
  Object.assign(now, {token: state.token, id: state.id, size: state.size, strip: state.strip, can: state.can, report: state.report});
  find('[data-about]').textContent = state.about;
  if (photo) {
    if (!marksOf.has(state.id)) {
      const [width, height] = [photo.naturalWidth, photo.naturalHeight];
      marksOf.set(state.id, {change: new Marks(width, height), keep: new Marks(width, height), looked: null});
      while (marksOf.size > 12) marksOf.delete(marksOf.keys().next().value);
    }
    if (change) marksOf.get(state.id).change.fill(change);
    if (stage.photo && stage.frame) stage.frame = null;
    now.aspect = '';
    stage.show(photo, before, state.size, marksOf.get(state.id));
  }
  drawStrip();
  showTask();
  await prepare();
  return true;
}

// Wait for what the task needs of a new photograph: its automatic subject.
async function prepare() {
  const marks = marksOf.get(now.id), wants = task().keeps;
  const told = JSON.stringify(task().fields.filter((input) => input.finds).map((input) => fieldsOf()[input.name] || ''));
  preparing = true;
  refresh();
  if (marks && wants && marks.looked !== told) {
    const id = now.id, name = now.task, answer = await ask('desk_subject', {task: name, inputs: fieldsOf()});
    const found = answer && answer.id === id ? await loaded(answer.mask) : null;
    if (answer && answer.id === id && marks.looked !== told) {
      marks.keep.fill(found);
      marks.looked = told;
    }
    if (id !== now.id || name !== now.task) return;
  }
  preparing = false;
  stage.draw();
  changed();
}

// ------------------------------------------------------------------------------------------------------------- what is said

function say(text, error = false) {
  wrong = error;
  const status = find('[data-status]');
  if (status.textContent !== text) status.textContent = text;
  status.classList.toggle('wrong', error);
}

const fail = (text) => say(`${t('This does not work')}: ${t(text)}`, true);

function toast(text) {
  const hint = find('[data-hint]');
  hint.textContent = text;
  hint.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { hint.hidden = true; }, 9000);
}

// Why Run waits, or '' where it does not.
function reason() {
  const marks = stage.marks.change;
  if (running) return t('Working');
  if (!now.id && task().picture) return t('Open a photograph first');
  if (preparing) return t('Preparing the photo');
  if (task().changes === 'required' && (!marks || marks.empty)) return t('Brush something first');
  if (task().keeps && stage.marks.keep.empty) return t('Brush over what to keep');
  if (task().prompt && task().prompt.required && !now.prompt.trim()) return t('Say it in words first');
  if (task().frame && !sides().some(Boolean) && !now.aspect && !fieldsOf().size) return t('Drag the frame first');
  return '';
}

const sides = () => Object.values(stage.frame || {});

function refresh() {
  const why = reason(), button = byDo('run');
  button.textContent = why || t(task().title);
  button.setAttribute('aria-disabled', String(Boolean(why)));
  root.dataset.state = running ? 'running' : preparing ? 'preparing' : why ? 'waiting' : 'ready';
  root.dataset.id = now.id || '';
  byDo('undo').disabled = !now.can.undo && !(stage.layer && stage.marks[stage.layer]?.done.length);
  byDo('redo').disabled = !now.can.redo && !(stage.layer && stage.marks[stage.layer]?.undone.length);
  byDo('before').disabled = !stage.before;
  byDo('download').disabled = !now.id;
  byDo('another').hidden = !now.can.another || running;
  byDo('stop').hidden = !running;
  byDo('clear').disabled = !stage.layer || stage.marks[stage.layer]?.empty;
  byDo('veil').hidden = stage.layer !== 'keep';
  byDo('veil').setAttribute('aria-pressed', String(stage.veiled));
  byDo('batch').disabled = running || !now.batch.length;
  stage.frozen = running;
}

// Something that a run depends on has changed. What it would keep is asked for after a short rest.
function changed() {
  refresh();
  remember();
  clearTimeout(changed.timer);
  changed.timer = setTimeout(async () => {
    if (!now.id || preparing || running) return;
    const mine = ++changed.count;
    const answer = await server.desk_check({...form(), view: part('kept').open}).catch(() => null);
    if (!answer || mine !== changed.count) return;
    find('[data-line]').textContent = t(answer.line || '');
    find('[data-kept]').hidden = !answer.view;
    if (answer.view) find('[data-kept]').src = answer.view;
  }, 250);
}
changed.count = 0;

// ----------------------------------------------------------------------------------------------------------------- runs

// All that the server needs to know for a run.
function form() {
  const inputs = {...fieldsOf()};
  if (task().prompt) inputs.prompt = now.prompt.trim();
  if (task().frame) {
    if (now.aspect) inputs.aspect = now.aspect;
    else if (!inputs.size) Object.assign(inputs, stage.frame);
  }
  const {change, keep} = stage.marks;
  return {
    token: now.token, id: now.id, task: now.task, inputs, ...now.settings, lora_file: now.lora,
    change: task().changes && change ? change.url() : null, keep: task().keeps && keep ? keep.url() : null,
  };
}

function start(event, data) {
  if (running) return;
  running = true;
  sequence += 1;
  say(t('Waiting …'));
  refresh();
  trigger(event, {...data, number: sequence});
  clearInterval(poll);
  poll = setInterval(async () => {
    const answer = await server.desk_progress({token: now.token}).catch(() => null);
    if (running && answer && answer.what) say(`${t(answer.what)} · ${Math.round(100 * answer.share)} %`);
  }, 400);
}

function run() {
  const why = reason();
  if (why) return say(why);
  start('submit', {...form(), again: isSecondTry()});
}

// A new background for a new background: it starts from the photograph that the first one started from, unless the
// visitor has corrected what is kept of the result.
function isSecondTry() {
  const shot = now.strip.find((each) => each.id === now.id);
  return task().keeps && shot?.task === now.task && !stage.marks.keep.touched;
}

function another() {
  now.settings.seed = Math.floor(Math.random() * LARGEST_SEED);
  showSettings();
  start('submit', {...form(), another: true});
}

function stop() {
  running = false;
  clearInterval(poll);
  trigger('stop', {token: now.token});
  server.desk_stop({token: now.token}).catch(() => null);
  say(t('Cancelled.'));
  refresh();
}

// A run, a batch, a download or a model has come back; `value` says which one and what there is to show.
async function finished() {
  const value = props.value || {};
  if (value.what === 'download') {
    if (value.error) return fail(value.error);
    save(value.file.url, value.name);
    return say(t(value.line));
  }
  if (value.number !== sequence || !running) return; // stopped meanwhile
  clearInterval(poll);
  running = false;
  for (const each of value.warnings || []) toast(t(each));
  if (value.error) {
    fail(value.error);
  } else if (value.what === 'run') {
    stage.veiled = false; // the result is what is to be seen
    if (await show(await ask('desk_start'))) say(t(now.report));
  } else if (value.what === 'load') {
    now.settings.guidance = value.guidance;
    showSettings();
    say(t(value.line));
  } else {
    showBatch(value);
  }
  refresh();
}

function save(url, name) {
  const link = makeElement('a', {href: url, download: name});
  document.body.append(link);
  link.click();
  link.remove();
}

function showBatch(value) {
  const result = find('[data-batch-result]');
  const link = makeElement('a', {href: value.file.url, download: value.name, class: 'wide', text: `${t('Download')} ${value.name}`});
  const lines = makeElement('ul', {}, ...value.lines.map((each) => makeElement('li', {text: t(each)})));
  result.replaceChildren(...(value.lines.length ? [link, lines] : [link]));
  say(t(value.line));
}

// ------------------------------------------------------------------------------------------------------- what is shown

function drawTasks() {
  const bar = find('.tasks');
  for (const each of TASKS.values()) {
    const button = makeElement('button', {type: 'button', role: 'radio', 'data-task': each.name},
      makeElement('span', {text: t(each.title)}), makeElement('small', {text: each.name}));
    button.addEventListener('click', () => choose(each.name));
    bar.append(button);
  }
  bar.addEventListener('keydown', (event) => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (!step) return;
    event.preventDefault();
    const names = [...TASKS.keys()];
    choose(names[(names.indexOf(now.task) + step + names.length) % names.length]);
    find('[aria-checked="true"]').focus();
  });
}

function choose(name) {
  if (now.task === name) return;
  now.task = name;
  stage.veiled = true;
  say('');
  showTask();
  prepare();
}

function showTask() {
  const {fields, keeps, changes, frame, prompt} = task();
  for (const each of all('[data-task]')) {
    const chosen = each.dataset.task === now.task;
    each.setAttribute('aria-checked', String(chosen));
    each.tabIndex = chosen ? 0 : -1;
    if (chosen) {
      const bar = each.parentElement; // not scrollIntoView, which would move the page, too
      bar.scrollLeft = each.offsetLeft - (bar.clientWidth - each.offsetWidth) / 2;
    }
  }
  stage.layer = keeps ? 'keep' : changes ? 'change' : null;
  const framing = Boolean(frame && now.id);
  if (framing !== Boolean(stage.frame)) {
    stage.frame = framing ? {left: 0, right: 0, top: 0, bottom: 0} : null;
    now.aspect = '';
    stage.fit();
  }
  root.dataset.layer = stage.layer || (framing ? 'frame' : '');
  find('.numbers').hidden = find('.numbers').hidden || !stage.layer;
  find('[data-summary]').textContent = t(`${task().summary}.`);
  find('[data-line]').textContent = '';
  find('.prompt').hidden = !prompt;
  const words = find('[data-prompt]');
  words.placeholder = prompt ? t(prompt.help) : '';
  words.value = now.prompt;
  const example = byDo('example');
  example.hidden = !task().example;
  if (task().example) example.textContent = `${t('Example')}: ${t(task().example)}`;
  part('batch').hidden = !task().batch;
  showFields(fields);
  showPresets();
  stage.draw();
  refresh();
}

function showFields(fields) {
  const open = find('[data-fields]'), folded = find('[data-folded]');
  open.replaceChildren();
  folded.replaceChildren();
  const tools = {t, upload: send, swatches: props.swatches};
  for (const input of fields) {
    const set = (value) => {
      fieldsOf()[input.name] = value;
      if (input.kind === 'size' && value && task().frame) showMargins(stage.frame = {left: 0, right: 0, top: 0, bottom: 0});
      if (input.finds) prepare();
      else changed();
    };
    const place = input.folded ? folded : open;
    place.append(makeField({...input, accept: props.accept}, fieldsOf()[input.name], {...tools, changed: set}));
  }
  if (task().frame && stage.frame) {
    open.append(makeMargins(task().frame, stage.frame, {t, changed: (side, value) => {
      now.aspect = '';
      stage.frame = {...stage.frame, [side]: value};
      stage.fit();
      showPresets();
      changed();
    }}));
  }
  if (task().name === 'erase') {
    const box = makeElement('input', {type: 'checkbox', checked: now.atOnce});
    box.addEventListener('change', () => { now.atOnce = box.checked; remember(); });
    open.append(makeElement('label', {class: 'check'}, box, makeElement('span', {text: t('Remove as soon as a stroke ends')})));
  }
  if (task().gallery) {
    open.append(makeGallery(props.swatches, t, (swatch) => {
      now.prompt = swatch.prompt;
      find('[data-prompt]').value = now.prompt;
      changed();
    }));
  }
  part('more').hidden = !folded.children.length;
}

function showMargins(frame) {
  for (const each of all('[data-side]')) each.value = String(frame[each.dataset.side] || 0);
  if (sides().some(Boolean)) fieldsOf().size = '';
  showPresets();
  refresh();
}

function showPresets() {
  find('.presets').hidden = !task().frame;
  for (const each of all('[data-aspect]')) each.setAttribute('aria-pressed', String(now.aspect === each.dataset.aspect));
}

function drawPresets() {
  find('.presets').replaceChildren(...['', ...ASPECTS].map((aspect) => {
    const button = makeElement('button', {
      type: 'button', text: aspect || t('Free'), 'aria-pressed': 'false', 'data-aspect': aspect,
    });
    button.addEventListener('click', () => {
      stage.frame = aspect ? framed(now.size, aspect) : {left: 0, right: 0, top: 0, bottom: 0};
      showMargins(stage.frame);
      now.aspect = aspect;
      fieldsOf().size = '';
      showPresets();
      stage.fit();
      changed();
    });
    return button;
  }));
}

function drawStrip() {
  find('.strip ol').replaceChildren(...now.strip.map((shot, i) => {
    const what = shot.task ? t(TASKS.get(shot.task)?.title || shot.task) : t('Original');
    const name = shot.task ? `${what}, ${t('seed')} ${shot.seed}` : what;
    const button = makeElement('button', {type: 'button', 'aria-label': `${i + 1}: ${name}`, title: `${name} · ${shot.about}`, 'data-shot': shot.id},
      makeElement('img', {src: shot.thumb, alt: ''}), makeElement('small', {text: what}));
    if (shot.id === now.id) button.setAttribute('aria-current', 'true');
    button.addEventListener('click', () => go('desk_go', {id: shot.id}));
    return makeElement('li', {}, button);
  }));
  const current = find('.strip [aria-current]');
  if (current) find('.strip ol').scrollLeft = current.offsetLeft - 80;
}

async function go(name, data) {
  if (running) return;
  stage.veiled = name === 'desk_shelf';
  if (await show(await ask(name, data))) say(t(now.report));
}

function showSettings() {
  for (const each of all('[data-set]'))
    if (each.type === 'checkbox') each.checked = now.settings[each.dataset.set];
    else each.value = now.settings[each.dataset.set];
}

// -------------------------------------------------------------------------------------------------------------- events

async function open(file) {
  if (running || !file) return;
  preparing = true;
  stage.veiled = true;
  say(t('Opening …'));
  refresh();
  const sent = await send(file);
  const answer = sent && await ask('desk_open', sent);
  if (answer && await show(answer)) say('');
  preparing = false;
  refresh();
}

const actions = {
  open: () => find('[data-file="open"]').click(),
  undo: () => stage.undo() || (now.can.undo && go('desk_undo')),
  redo: () => stage.redo() || (now.can.redo && go('desk_redo')),
  clear: stage.clear,
  veil() { stage.veiled = !stage.veiled; stage.draw(); refresh(); },
  numbers() {
    const form = find('.numbers');
    form.hidden = !form.hidden;
    byDo('numbers').setAttribute('aria-expanded', String(!form.hidden));
    if (!form.hidden) form.querySelector('input').focus();
  },
  out: () => stage.zoomBy(1 / 1.4),
  in: () => stage.zoomBy(1.4),
  fit: stage.fit,
  dice() { now.settings.seed = Math.floor(Math.random() * LARGEST_SEED); showSettings(); remember(); },
  async example() {
    const answer = await ask('desk_example', {task: now.task});
    if (!answer) return;
    now.prompt = answer.prompt || '';
    now.fields[now.task] = answer.fields;
    if (!await show(answer, answer.marks)) return;
    if (task().frame && answer.frame) showMargins(stage.frame = answer.frame);
    stage.fit();
    say('');
    changed();
  },
  download: () => trigger('download', {token: now.token, id: now.id, format: now.settings.format, learn: now.settings.learn}),
  load: () => start('load', {...now.settings, lora_file: now.lora, task: now.task}),
  batch: () => start('batch', {...form(), files: now.batch}),
  run, another, stop,
};

root.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button || !root.contains(button)) return;
  if (button.dataset.tool) {
    stage.tool = button.dataset.tool;
    for (const each of all('[data-tool]')) each.setAttribute('aria-pressed', String(each === button));
  } else if (actions[button.dataset.do]) {
    actions[button.dataset.do]();
  }
});

function compare(on) {
  if (stage.comparing === (on && Boolean(stage.before))) return;
  stage.comparing = on && Boolean(stage.before);
  stage.draw();
  if (stage.comparing) say(t('Before'));
  else say(t(now.report));
}
byDo('before').addEventListener('pointerdown', () => compare(true));
for (const end of ['pointerup', 'pointerleave', 'pointercancel', 'blur']) byDo('before').addEventListener(end, () => compare(false));
byDo('before').addEventListener('contextmenu', (event) => event.preventDefault()); // what a long touch would open

function resize(by) {
  stage.size = Math.min(160, Math.max(4, Math.round(stage.size * by)));
  find('[data-size]').value = stage.size;
  stage.draw();
}

document.addEventListener('keydown', (event) => {
  const typing = event.target.closest('input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select');
  if (typing) return;
  const key = event.key.toLowerCase(), control = event.ctrlKey || event.metaKey;
  if (control && key === 'z') actions[event.shiftKey ? 'redo' : 'undo']();
  else if (control && key === 'y') actions.redo();
  else if (control || event.altKey) return;
  else if (key === '[') resize(1 / 1.2);
  else if (key === ']') resize(1.2);
  else if (key === 'b') compare(true);
  else if (key === '0') stage.fit();
  else if (key === '+' || key === '=') stage.zoomBy(1.4);
  else if (key === '-') stage.zoomBy(1 / 1.4);
  else if (event.target === byDo('before') && (key === ' ' || key === 'enter')) compare(true);
  else return;
  event.preventDefault();
});
document.addEventListener('keyup', () => compare(false));

document.addEventListener('paste', (event) => {
  const file = [...(event.clipboardData?.files || [])].find((each) => each.type.startsWith('image/'));
  if (!file) return;
  event.preventDefault();
  open(file);
});
document.addEventListener('dragover', (event) => {
  if (![...(event.dataTransfer?.types || [])].includes('Files')) return;
  event.preventDefault();
  root.classList.add('dropping');
});
document.addEventListener('dragleave', (event) => { if (!event.relatedTarget) root.classList.remove('dropping'); });
document.addEventListener('drop', (event) => {
  root.classList.remove('dropping');
  const file = event.dataTransfer?.files[0];
  if (!file || event.target.closest('input[type=file]')) return;
  event.preventDefault();
  open(file);
});

find('[data-size]').addEventListener('input', (event) => { stage.size = Number(event.target.value); stage.draw(); });
find('[data-prompt]').addEventListener('input', (event) => { now.prompt = event.target.value; changed(); });
find('[data-prompt]').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  run();
});
find('.numbers').addEventListener('submit', (event) => {
  event.preventDefault();
  const [x, y, w, h] = ['x', 'y', 'w', 'h'].map((name) => Number(event.target.elements[name].value) / 100);
  stage.markBox([x * stage.width, y * stage.height], [(x + w) * stage.width, (y + h) * stage.height]);
});
for (const each of all('[data-set]'))
  each.addEventListener('change', () => {
    now.settings[each.dataset.set] =
      each.type === 'number' ? Number(each.value) : each.type === 'checkbox' ? each.checked : each.value;
    remember();
  });
find('[data-file="open"]').addEventListener('change', (event) => {
  open(event.target.files[0]);
  event.target.value = '';
});
find('[data-file="lora"]').addEventListener('change', async (event) => {
  now.lora = event.target.files[0] ? await send(event.target.files[0]) : null;
});
find('[data-file="batch"]').addEventListener('change', async (event) => {
  now.batch = [];
  find('[data-batch-result]').replaceChildren();
  for (const file of event.target.files) {
    say(t(`Sending ${now.batch.length + 1} of ${event.target.files.length}`));
    const sent = await send(file);
    if (sent) now.batch.push(sent);
  }
  if (!wrong) say(t(`${now.batch.length} photographs are ready`));
  refresh();
});

// --------------------------------------------------------------------------------------------------------------- start

localise();
drawTasks();
drawPresets();
find('[data-file="open"]').accept = props.accept;
find('[data-file="batch"]').accept = props.accept;
for (const format of ['', ...props.formats])
  find('[data-set="format"]').append(makeElement('option', {value: format, text: format || t('same format')}));
for (const model of props.models) find('#bench-models').append(makeElement('option', {value: model}));
for (const lora of ['', ...props.loras]) find('[data-set="lora"]').append(makeElement('option', {value: lora, text: lora || t('none')}));
find('[data-loras]').hidden = !props.loras.length;
find('[data-kept]').alt = t(find('[data-kept]').alt);
part('kept').addEventListener('toggle', () => { if (part('kept').open) changed(); });
find('[data-learn]').hidden = !props.learns;
part('samples').hidden = !props.shelf.length;
part('samples').open = window.innerWidth > 900;
props.shelf.forEach((sample, index) => {
  const button = makeElement('button', {type: 'button', title: sample.name}, makeElement('img', {src: sample.thumb, alt: sample.name}));
  button.addEventListener('click', () => go('desk_shelf', {index}));
  find('.shelf').append(button);
});
watch('value', finished);
setInterval(() => server.desk_progress({token: now.token}).catch(() => null), 300000); // who stays is not forgotten

(async () => {
  let kept = null;
  try { kept = JSON.parse(sessionStorage.getItem(STORE)); } catch { /* what cannot be read was not kept */ }
  if (kept) {
    for (const name of ['token', 'prompt', 'fields', 'atOnce']) if (name in kept) now[name] = kept[name];
    Object.assign(now.settings, kept.settings);
    if (TASKS.has(kept.task)) now.task = kept.task;
  }
  showSettings();
  showTask();
  const state = await ask('desk_start');
  await show(state, kept && kept.marks && state && kept.marks.id === state.id ? kept.marks : null);
  preparing = false;
  if (state && !state.id) say(t('Open a photograph to begin.'));
  refresh();
})();
