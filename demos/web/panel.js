// What is shown of the task that is chosen: the bar, its fields, the place of a subject, the frame's shapes; and the
// strip of history.

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
  now.made = '';
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
  root.toggleAttribute('data-places', Boolean(task().places));
  root.dataset.layer = stage.layer || (framing ? 'frame' : '');
  if (showTask.last !== now.task) pick(task().places ? 'place' : stage.tool === 'place' ? 'brush' : stage.tool);
  showTask.last = now.task;
  find('.numbers').hidden = find('.numbers').hidden || !stage.layer;
  find('[data-line]').textContent = '';
  find('.prompt').hidden = !prompt;
  const words = find('[data-prompt]');
  words.placeholder = prompt ? t(prompt.help) : '';
  words.value = now.prompt;
  const example = byDo('example');
  example.hidden = !task().example;
  if (task().example) example.textContent = `${t('Example')}: ${t(task().example)}`;
  part('batch').hidden = !task().batch;
  find('[data-best]').hidden = !task().judged;
  for (const each of root.querySelectorAll('[data-samples]')) each.hidden = !task().samples;
  part('settings').hidden = !task().varies;
  showFields(fields);
  showPresets();
  stage.draw();
  refresh();
}

const EITHER = {background: 'backdrop', backdrop: 'background'}; // each says what lies behind

function forget(name) {
  if (!fieldsOf()[name]) return;
  fieldsOf()[name] = null;
  showFields(task().fields);
}

function showFields(fields) {
  const open = find('[data-fields]'), folded = find('[data-folded]');
  open.replaceChildren();
  folded.replaceChildren();
  const tools = {t, upload: send, swatches: props.swatches};
  for (const input of fields) {
    const set = (value) => {
      fieldsOf()[input.name] = value;
      if (value && EITHER[input.name]) forget(EITHER[input.name]);
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
  if (task().places) {
    open.append(makePlace({t, changed: placeBy, free() { place('', '', true); }}));
    showPlace();
  }
  if (task().name === 'erase') {
    const box = makeElement('input', {type: 'checkbox', checked: now.atOnce});
    box.addEventListener('change', () => { now.atOnce = box.checked; remember(); });
    open.append(makeElement('label', {class: 'check'}, box, makeElement('span', {text: t('Remove as soon as a stroke ends')})));
  }
  if (task().gallery) {
    const prompt = find('[data-prompt]');
    const gallery = makeGallery(props.swatches, t, (swatch) => swatch.prompt === now.prompt, (swatch) => {
      prompt.value = now.prompt = swatch.prompt;
      changed();
    });
    prompt.oninput = gallery.mark;
    open.append(gallery.element);
  }
  part('more').hidden = !folded.children.length;
}

// Say where the subject lies, by the inputs of the task; '' = by its rules.
function place(at, fit, ended) {
  const fields = fieldsOf(), enlarges = Boolean(fit) && parseFloat(fit) > 100;
  Object.assign(fields, {at, fit});
  if (enlarges && !fields.enlarge) now.enlarged = fields.enlarge = true;
  else if (!enlarges && now.enlarged) now.enlarged = fields.enlarge = false;
  for (const name of ['fit', 'enlarge']) {
    const control = find(`#field-${name}`);
    if (control) control.value = {true: 'yes', false: ''}[fields[name]] ?? fields[name] ?? '';
  }
  stale = true; // what the server answers to an earlier question is of another place
  showPlace();
  stage.draw();
  if (ended) changed();
}

// Whether the subject lies at the canvas's edge, as one does that the frame cuts off: it would change its size if moved.
function cutOff() {
  const {box, size} = stage.placement;
  return box.w >= size[0] || box.h >= size[1];
}

function showPlace() {
  const {box, size, scale} = stage.placement;
  if (!size) return;
  const values = {x: 100 * box.x / size[0], y: 100 * box.y / size[1], size: 100 * scale};
  for (const each of all('[data-place]'))
    if (each !== document.activeElement) each.value = String(Number(values[each.dataset.place].toFixed(2)));
  const free = find('[data-free]');
  if (free) free.disabled = !fieldsOf().at && !fieldsOf().fit;
}

// A number of the place was written, or a key pressed.
function placeBy(name, value) {
  const {placement} = stage;
  if (!placement.size || running) return;
  const {box, size, scale} = placement;
  if (name === 'size') placement.scaleTo(value / 100);
  else placement.moveTo(name === 'x' ? value / 100 * size[0] : box.x, name === 'y' ? value / 100 * size[1] : box.y);
  const {at, fit} = placement.inputs();
  place(at, scale !== placement.scale ? fit : fieldsOf().fit, true);
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

function showSettings() {
  for (const each of all('[data-set]'))
    if (each.type === 'checkbox') each.checked = now.settings[each.dataset.set];
    else each.value = now.settings[each.dataset.set];
}
