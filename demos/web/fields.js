// The fields of a task, built from the inputs that it declares. Every field has a label, and a value as the server reads it.

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

// A labelled control for one input. `value`: what it holds now, undefined = the default; `changed(value)`.
function makeField(input, value, {t, changed, upload, swatches}) {
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
    if (input.default === null) control.append(makeElement('option', {value: '', text: t('as usual')}));
    for (const choice of choices) control.append(makeElement('option', {value: String(choice), text: t(String(choice))}));
    control.value = now === null ? '' : String(now);
    control.addEventListener('change', () => {
      changed(choices.find((choice) => String(choice) === control.value) ?? '');
    });
  } else if (input.kind === 'int') {
    control = makeElement('input', {type: 'number', step: '1', id, value: now === null ? '' : String(now), placeholder: t('as usual')});
    control.addEventListener('change', () => changed(control.value === '' ? null : Number(control.value)));
  } else {
    control = makeElement('input', {type: 'text', id, value: now || '', placeholder: help, maxlength: '500', autocomplete: 'off'});
    control.addEventListener('change', () => changed(control.value.trim()));
  }
  control.title = help;
  const made = makeElement('label', {}, label, control);
  if (input.kind !== 'background' || !swatches.length) return made;
  return makeElement('div', {}, made, makeGallery(swatches, t, (swatch) => {
    control.value = swatch.background;
    changed(swatch.background);
  }));
}

// A picture of the visitor's own. Its value is {name, path}, where the path is a name of the upload on the server.
function imageField(input, now, label, {t, changed, upload, help, id}) {
  const file = makeElement('input', {type: 'file', id, accept: input.accept, title: help});
  const name = makeElement('span', {class: 'quiet', text: now ? now.name : help});
  const drop = makeElement('button', {type: 'button', text: t('Remove it'), hidden: !now});
  file.addEventListener('change', async () => {
    const sent = file.files[0] && await upload(file.files[0]);
    if (!sent) return;
    name.textContent = sent.name;
    drop.hidden = false;
    changed(sent);
  });
  drop.addEventListener('click', () => {
    file.value = '';
    name.textContent = help;
    drop.hidden = true;
    changed(null);
  });
  return makeElement('div', {class: 'own'}, makeElement('label', {}, label, file), name, drop);
}

// Pictures of backgrounds to choose from.
function makeGallery(swatches, t, choose) {
  const gallery = makeElement('div', {class: 'gallery', role: 'group', 'aria-label': t('Backgrounds')});
  for (const swatch of swatches) {
    const name = t(swatch.name);
    const button = makeElement('button', {type: 'button', title: name}, makeElement('img', {src: swatch.url, alt: name}));
    button.addEventListener('click', () => choose(swatch));
    gallery.append(button);
  }
  return gallery;
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

// What a shape adds to a photograph, centred: the smallest canvas of that aspect that holds it.
function framed([width, height], aspect) {
  const [across, down] = aspect.split(':').map(Number);
  const w = Math.max(width, Math.round(height * across / down)), h = Math.max(height, Math.round(width * down / across));
  const left = Math.floor((w - width) / 2), top = Math.floor((h - height) / 2);
  return {left, right: w - width - left, top, bottom: h - height - top};
}
