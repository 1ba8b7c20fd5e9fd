// The fields of a task, built from the inputs that it declares. Every field has a label, and a value as the server reads it.

const CANVASES = ['2000x2000', '1600x1600', '1080x1350', '1080x1080', '1200x800']; // what is usual
const SHORT = ['size', 'sides', 'share', 'length', 'int', 'place', 'fit', 'aspect']; // kinds with room for two in a row
const ASPECTS = ['1:1', '4:5', '3:2', '16:9', '9:16'];

function makeElement(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'text') made.textContent = value;
    else if (name in made && name !== 'list' && typeof value !== 'string') made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// A labelled control for one input, and how much room it takes.
function makeField(input, value, tools) {
  const made = makeControl(input, value, tools);
  const listed = input.folded && (input.kind === 'flag' || input.choices.length);
  if (listed || SHORT.includes(input.kind)) made.classList.add('half');
  return made;
}

// A labelled control for one input. `value`: what it holds now, undefined = the default; `changed(value)`.
function makeControl(input, value, {t, changed, upload, swatches}) {
  const now = value === undefined || value === null ? input.default : value;
  const help = t(input.help), id = `field-${input.name}`;
  const label = makeElement('span', {text: t(input.label)});
  if (input.kind === 'flag' && input.default !== null) {
    const box = makeElement('input', {type: 'checkbox', id, checked: Boolean(now)});
    box.addEventListener('change', () => changed(box.checked));
    return makeElement('label', {class: 'check', title: help}, box, label);
  }
  if (input.kind === 'image') return imageField(input, now, label, {t, changed, upload, help, id});
  if (input.choices.length && input.choices.length <= 4 && input.default !== null) {
    const group = makeElement('fieldset', {}, makeElement('legend', {text: t(input.label)}));
    for (const choice of input.choices) {
      const radio = makeElement('input', {type: 'radio', name: id, value: String(choice), checked: choice === now});
      radio.addEventListener('change', () => changed(choice));
      group.append(makeElement('label', {class: 'choice'}, radio, makeElement('span', {text: t(String(choice))})));
    }
    return group;
  }
  let control;
  const choices = input.kind === 'flag' ? ['yes', 'no'] : input.choices; // of three: as usual, yes, no
  if (choices.length) {
    control = makeElement('select', {id});
    const usual = input.kind === 'preset' ? t('none') : t('as usual');
    if (input.default === null) control.append(makeElement('option', {value: '', text: usual}));
    for (const choice of choices) {
      const title = (input.titles || {})[choice] || t(String(choice));
      control.append(makeElement('option', {value: String(choice), text: title}));
    }
    control.value = now === null ? '' : String(now);
    control.addEventListener('change', () => {
      changed(choices.find((choice) => String(choice) === control.value) ?? '');
    });
  } else if (input.kind === 'int') {
    control = makeElement('input', {type: 'number', step: '1', id, value: now === null ? '' : String(now), placeholder: t('as usual')});
    if (input.within) [control.min, control.max] = input.within.map(String);
    control.addEventListener('change', () => changed(control.value === '' ? null : Number(control.value)));
  } else {
    control = makeElement('input', {type: 'text', id, value: now || '', placeholder: input.example ? `${t('e.g.')} ${input.example}` : help, maxlength: '500', autocomplete: 'off'});
    control.addEventListener('change', () => changed(control.value.trim()));
    if (input.kind === 'size') control.setAttribute('list', 'bench-canvases');
  }
  control.title = help;
  const made = makeElement('label', {}, label, control);
  if (input.kind !== 'background' || !swatches.length) return made;
  const gallery = makeGallery(swatches, t, (swatch) => swatch.background === control.value, (swatch) => {
    control.value = swatch.background;
    changed(swatch.background);
  });
  control.addEventListener('change', gallery.mark);
  return makeElement('div', {}, made, gallery.element);
}

// A picture of the visitor's own. Its value is {name, path}, where the path is a name of the upload on the server.
function imageField(input, now, label, {t, changed, upload, help, id}) {
  const file = makeElement('input', {type: 'file', id, accept: input.accept, title: help});
  const name = makeElement('span', {class: 'quiet', text: now ? now.name : '', hidden: !now});
  const drop = makeElement('button', {type: 'button', text: t('Remove it'), hidden: !now});
  file.addEventListener('change', async () => {
    const sent = file.files[0] && await upload(file.files[0]);
    if (!sent) return;
    drop.hidden = false;
    changed(sent);
  });
  drop.addEventListener('click', () => {
    file.value = '';
    name.hidden = drop.hidden = true;
    changed(null);
  });
  return makeElement('div', {class: 'own'}, makeElement('label', {}, label, file), name, drop);
}

// Pictures of backgrounds to choose from. `chosen(swatch)`: whether it is the one.
function makeGallery(swatches, t, chosen, choose) {
  const gallery = makeElement('div', {class: 'gallery', role: 'group', 'aria-label': t('Backgrounds')});
  for (const swatch of swatches) {
    const name = t(swatch.name);
    const button = makeElement('button', {type: 'button', title: name}, makeElement('img', {src: swatch.url, alt: name}));
    button.addEventListener('click', () => { choose(swatch); mark(); });
    gallery.append(button);
  }
  function mark() {
    swatches.forEach((swatch, i) => gallery.children[i].setAttribute('aria-pressed', String(chosen(swatch))));
  }
  mark();
  return {element: gallery, mark};
}

// The margins of the frame as numbers, which is the way without a pointer.
function makeMargins(inputs, frame, {t, changed}) {
  const grid = makeElement('div', {class: 'grid', role: 'group', 'aria-label': t('Pixels to add')});
  for (const input of inputs) {
    const number = makeElement('input', {type: 'number', min: '0', step: '1', value: String(frame[input.name] || 0), 'data-side': input.name});
    number.addEventListener('change', () => changed(input.name, Math.max(0, Math.round(Number(number.value)) || 0)));
    grid.append(makeElement('label', {title: t(input.help)}, makeElement('span', {text: t(`${input.label}, px`)}), number));
  }
  return grid;
}

// Where the subject lies, as numbers, which is the way without a pointer. `changed(name, value)`; `free()`: by the rules.
function makePlace({t, changed, free}) {
  const grid = makeElement('div', {class: 'grid three'});
  for (const [name, label, least, most] of [['x', 'Left, %', 0, 100], ['y', 'Top, %', 0, 100], ['size', 'Size, %', 0.1, 2000]]) {
    const number = makeElement('input', {type: 'number', min: String(least), max: String(most), step: 'any', 'data-place': name});
    number.addEventListener('change', () => {
      if (number.value !== '') changed(name, Math.min(most, Math.max(least, Number(number.value))));
    });
    grid.append(makeElement('label', {}, makeElement('span', {text: t(label)}), number));
  }
  const reset = makeElement('button', {type: 'button', class: 'wide', 'data-free': '', text: t('Place it by the rules')});
  reset.addEventListener('click', free);
  const legend = makeElement('legend', {text: t('Drag the subject or a corner')});
  return makeElement('fieldset', {class: 'place'}, legend, grid, reset);
}

// What a shape adds to a photograph, centred: the smallest canvas of that aspect that holds it.
function framed([width, height], aspect) {
  const [across, down] = aspect.split(':').map(Number);
  const w = Math.max(width, Math.round(height * across / down)), h = Math.max(height, Math.round(width * down / across));
  const left = Math.floor((w - width) / 2), top = Math.floor((h - height) / 2);
  return {left, right: w - width - left, top, bottom: h - height - top};
}
