// The page: what the visitor does and what the server is asked. `place.js` and `stage.js` have the picture itself,
// `words.js` what is said in which language, `fields.js` and `panel.js` tasks and their fields. They all run in one
// function, in which Gradio gives `element`, `props`, `server`, `trigger`, `upload` and `watch`.

const STORE = 'photofound'; // in the session's storage: what survives a reload, and no other visit
const LARGEST_SEED = 2 ** 31;

const root = element.querySelector('.bench');
const find = (what) => root.querySelector(what), all = (what) => [...root.querySelectorAll(what)];
const byDo = (name) => find(`[data-do="${name}"]`);
const part = (name) => find(`[data-part="${name}"]`);
const TASKS = new Map(props.tasks.map((task) => [task.name, task]));

// ---------------------------------------------------------------------------------------------------------------- state

const now = {
  token: null, id: null, size: [0, 0], strip: [], can: {}, report: '',
  task: props.tasks[0].name, prompt: '', fields: {}, aspect: '', atOnce: true, enlarged: false, made: '',
  settings: {seed: 0, variants: 1, best_of: 1, steps: 0, guidance: props.guidance, model: props.model, lora: '', format: '', learn: props.learn},
  lora: null, batch: [],
};
let checking = false, stale = false, asking = '';
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
  placed(ended, sized) {
    const {at, fit} = stage.placement.inputs();
    place(at, sized || cutOff() ? fit : fieldsOf().fit, ended);
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

// Show the desk that the server describes.
async function show(state, marks = null) {
  if (!state) return false;
  if (state.id !== now.id && !asking) stage.placement.clear(); // a run's result lies where its subject was placed
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
  const marks = marksOf.get(now.id), wants = task().keeps && !placesAgain();
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
  text ||= t(`${task().summary}.`);
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
  if (task().keeps && stage.marks.keep.empty && !placesAgain()) return t('Brush over what to keep');
  if (task().prompt && task().prompt.required && !now.prompt.trim()) return t('Say it in words first');
  if (task().frame && !sides().some(Boolean) && !now.aspect && !fieldsOf().size) return t('Drag the frame first');
  return '';
}

// A packshot that is placed once more starts from its photograph, whose subject the server knows.
const placesAgain = () => stage.tool === 'place' && isSecondTry();

const sides = () => Object.values(stage.frame || {});

function refresh() {
  const why = reason(), button = byDo('run');
  button.textContent = why || t(task().title);
  button.setAttribute('aria-disabled', String(Boolean(why)));
  root.dataset.state = running ? 'running' : preparing ? 'preparing' : why ? 'waiting' : 'ready';
  root.dataset.id = now.id || '';
  byDo('undo').disabled = !now.can.undo && !(stage.layer && stage.marks[stage.layer]?.done.length);
  byDo('redo').disabled = !now.can.redo && !(stage.layer && stage.marks[stage.layer]?.undone.length);
  byDo('before').disabled = !stage.before && !(stage.tool === 'place' && stage.placement.size);
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
  stage.placement.finished = now.made === wanted();
  stale = true;
  clearTimeout(changed.timer);
  changed.timer = setTimeout(check, stage.tool === 'place' ? 60 : 250);
}

// One question at a time: what changes while it is on its way is asked for once it is back.
async function check() {
  if (checking) return;
  checking = true;
  while (stale && now.id && !preparing && !running && !stage.dragging()) {
    stale = false;
    const placing = stage.tool === 'place', asked = {...form(), again: isSecondTry(), view: part('kept').open};
    const answer = await server.desk_check({...asked, placing, ghost: stage.placement.key}).catch(() => null);
    if (answer && !stale) await showCheck(answer);
  }
  checking = false;
}

async function showCheck({line, wrong, view, placed}) {
  const said = find('[data-line]');
  said.textContent = wrong && !reason() ? t(wrong) : (line || '').split(' · ').map(t).join(' · ');
  said.classList.toggle('wrong', Boolean(wrong && !reason()));
  find('[data-kept]').hidden = !view;
  if (view) find('[data-kept]').src = view;
  if (!placed) return;
  const before = String(stage.placement.size);
  if (!await stage.placement.take(placed, () => !stale)) return;
  if (before !== String(placed.canvas)) stage.fit();
  stage.draw();
  showPlace();
  refresh();
}

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
  now.made = '';
  asking = wanted();
  start('submit', {...form(), again: isSecondTry()});
}

// What is asked for in words and numbers: whether it has changed since the picture was made.
const wanted = () => JSON.stringify([now.task, {...fieldsOf(), prompt: task().prompt && now.prompt.trim()}, now.settings.seed]);

// A new background for a new background: it starts from the photograph that the first one started from, unless the
// visitor has corrected what is kept of the result.
function isSecondTry() {
  const shot = now.strip.find((each) => each.id === now.id);
  return task().keeps && shot?.task === now.task && !stage.marks.keep.touched;
}

function another() {
  now.settings.seed = Math.floor(Math.random() * LARGEST_SEED);
  showSettings();
  asking = '';
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
    now.made = asking;
    if (await show(await ask('desk_start'))) say(t(now.report));
    asking = '';
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

// -------------------------------------------------------------------------------------------------------------- events

async function go(name, data) {
  if (running) return;
  stage.veiled = name === 'desk_shelf';
  if (await show(await ask(name, data))) say(t(now.report));
}

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
    pick(button.dataset.tool);
    if (task().places) prepare();
  } else if (actions[button.dataset.do]) {
    actions[button.dataset.do]();
  }
});

function pick(tool) {
  const fits = (stage.tool === 'place') !== (tool === 'place');
  stage.tool = root.dataset.tool = tool;
  for (const each of all('[data-tool]')) each.setAttribute('aria-pressed', String(each.dataset.tool === tool));
  find('#canvas-keys').textContent = tool === 'place'
    ? t('Arrow keys move the subject, [ and ] change its size, B shows the picture before.')
    : t('Arrow keys move the brush, the space bar paints, [ and ] change its size, B shows the picture before.');
  if (fits) stage.fit();
}

function compare(on) {
  const can = !byDo('before').disabled;
  if (stage.comparing === (on && can)) return;
  stage.comparing = on && can;
  stage.draw();
  if (stage.comparing) say(t('Before'));
  else say(t(now.report));
}
byDo('before').addEventListener('pointerdown', () => compare(true));
for (const end of ['pointerup', 'pointerleave', 'pointercancel', 'blur']) byDo('before').addEventListener(end, () => compare(false));
byDo('before').addEventListener('contextmenu', (event) => event.preventDefault()); // what a long touch would open

function resize(by) {
  if (stage.tool === 'place') return stage.placement.size && placeBy('size', 100 * stage.placement.scale * by);
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
  find('[data-set="format"]').append(makeElement('option', {value: format, text: `${format || t('Auto')}${['ORA', 'PSD'].includes(format) ? `, ${t('layers')}` : ''}`}));
for (const size of CANVASES) find('#bench-canvases').append(makeElement('option', {value: size}));
find('[data-set="best_of"]').max = props.candidates;
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
    for (const name of ['token', 'prompt', 'fields', 'atOnce', 'enlarged', 'made']) if (name in kept) now[name] = kept[name];
    Object.assign(now.settings, kept.settings);
    if (TASKS.has(kept.task)) now.task = kept.task;
  }
  showSettings();
  showTask();
  const state = await ask('desk_start');
  await show(state, kept && kept.marks && state && kept.marks.id === state.id ? kept.marks : null);
  preparing = false;
  say(state && !state.id ? t('Open a photograph to begin.') : t(now.report));
  refresh();
})();
