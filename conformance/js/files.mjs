// Files of checkpoints (SPEC.md §9): what is in them, and how a patch rebuilds them.
//
// A *source* is where the files of a checkpoint are, { names, read }: the paths of its files, and a function
// from a path to bytes. A checkpoint that is a single file has one path, the empty one, as in §6.6.
import {
  Fields, compareBytes, decodeText, encodeText, fail, integer, littleEndian, sameBytes, sha256,
} from './bytes.mjs';
import { dtypeOfName, sizeOf } from './codings.mjs';
import { PATCHED, REMOVED, TENSORS, isFileName, isOf } from './pulse.mjs';

const refuse = (message) => fail('checkpoint', message);
const quote = JSON.stringify;

// ---- strict JSON [R76] ----

const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
const LITERAL = /true|false|null/y;
const SPACE = /[ \t\n\r]*/y;

// Objects become Maps, so that no key is special, and numbers keep their spelling: { number: '1e3' }.
export function parseJson(bytes) {
  const text = decodeText(bytes, 'checkpoint');
  let at = 0;
  const match = (pattern) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text)?.[0];
    at += found?.length ?? 0;
    return found;
  };
  const next = (char) => {
    match(SPACE);
    if (text[at] !== char) return false;
    at += 1;
    return true;
  };
  const expect = (char) => next(char) || refuse(`JSON: no ${char} at ${at}`);
  const list = (end, item) => { // of items between commas
    if (next(end)) return;
    do item(); while (next(','));
    expect(end);
  };
  const string = () => {
    match(SPACE);
    const string = JSON.parse(match(STRING) ?? refuse(`JSON: no string at ${at}`)); // only to resolve escapes
    return string.isWellFormed() ? string : refuse('JSON: a lone surrogate');
  };
  const value = (depth) => {
    const [object, array] = [new Map(), []];
    if (next('{')) {
      if (depth > 64) refuse('JSON: nested too deep');
      list('}', () => {
        const key = string();
        if (object.has(key)) refuse(`JSON: the key ${quote(key)} occurs twice`);
        expect(':');
        object.set(key, value(depth + 1));
      });
      return object;
    }
    if (next('[')) {
      if (depth > 64) refuse('JSON: nested too deep');
      list(']', () => array.push(value(depth + 1)));
      return array;
    }
    if (text[at] === '"') return string();
    const literal = match(LITERAL);
    if (literal) return JSON.parse(literal);
    const number = match(NUMBER) ?? refuse(`JSON: no value at ${at}`);
    return Number.isFinite(Number(number)) ? { number } : refuse(`JSON: ${number} is not finite`);
  };
  const result = value(1);
  match(SPACE);
  return at === text.length ? result : refuse(`JSON: something follows at ${at}`);
}

// ---- safetensors files [R76] ----

function naturals(array) { // of `shape` and `data_offsets`
  if (!Array.isArray(array)) refuse('a shape, or offsets, that are no array');
  return array.map((item) => {
    const big = /^[0-9]+$/.test(item?.number) ? BigInt(item.number) : refuse('not digits only');
    return big < 2n ** 64n ? integer(big) : refuse('more than 64 bits');
  });
}

// The described bytes of a safetensors file: its length field and its JSON.
function describedBytes(file) {
  const fields = new Fields(file, 'checkpoint');
  fields.skip(fields.u64());
  return file.subarray(0, fields.at);
}

// The tensors of a header, { name, dtype, shape, begin, end, size }, and the size of them all.
export function parseHeader(described) {
  const fields = new Fields(described, 'checkpoint');
  const json = fields.take(fields.u64());
  if (fields.left > 0 || json[0] !== 0x7b) refuse('a header is its length and an object');
  const tensors = [];
  for (const [name, entry] of parseJson(json)) {
    if (!(entry instanceof Map)) refuse(`${quote(name)} is no object`);
    if (name === '__metadata__') {
      if ([...entry.values()].some((text) => typeof text !== 'string')) refuse('metadata that is no string');
      continue;
    }
    const dtype = entry.get('dtype');
    if (typeof dtype !== 'string') refuse(`${quote(name)} has no dtype`);
    const shape = naturals(entry.get('shape'));
    const [begin, end, ...more] = naturals(entry.get('data_offsets'));
    if (end === undefined || more.length > 0) refuse(`${quote(name)} has not two offsets`);
    const type = dtypeOfName(dtype);
    const size = BigInt(end) - BigInt(begin);
    if (size < 0 || (type && size !== sizeOf(type, shape))) refuse(`${quote(name)} has another size`);
    tensors.push({ name, dtype, shape, begin, end, size: integer(size) });
  }
  // Without hole or overlap. Tensors of no bytes come before the one that starts where they do.
  const order = (a, b) => (a < b ? -1 : Number(a > b));
  tensors.sort((a, b) => order(a.begin, b.begin) || order(a.end, b.end));
  let size = 0;
  for (const { name, begin, end } of tensors) {
    if (begin !== size) refuse(`a hole or an overlap before ${quote(name)}`);
    size = end;
  }
  return { tensors, size };
}

// ---- what a file of a directory is (the table of §9) ----

const INDEX = '.safetensors.index.json';
const INSIDE = /^\.|^(checkpoint-|global_step)[0-9]+$/; // subdirectories that nobody looks at
const LEFT_OUT = [
  /^\./,
  /^(optim|scheduler|scaler|rng_state|random_states|training_args|dataloader).*\.(pt|pth|bin|pkl|ckpt)$/s,
  /^(mp_rank_|zero_pp_rank_|bf16_zero_pp_rank_).*\.(pt|pth|bin|pkl|ckpt)$/s,
  /\.distcp$|^trainer_state\.json$|^events\.out\.tfevents/,
  /\.(pem|key|env)$|^(id_rsa|id_ecdsa|id_ed25519|credentials\.json)$/,
  /\.pulse$|^pulse-update-/,
];

const baseOf = (path) => path.slice(path.lastIndexOf('/') + 1);
const directoryOf = (path) => path.slice(0, Math.max(path.lastIndexOf('/'), 0));
const join = (directory, name) => (directory === '' ? name : `${directory}/${name}`);
const byBytes = (a, b) => compareBytes(encodeText(a), encodeText(b));

// Says of each path what it is: 'tensors', 'companion', 'unindexed' (left out because of the index),
// 'foreign' (in a foreign subdirectory), or 'left out'. And gives the parts, { path, weightMap, files }, of
// which the first is the root. A weightMap is that of the index, with paths in the root, or null.
export function layout({ names, read }) {
  if (names.length === 1 && names[0] === '') { // a single file
    return { kinds: new Map([['', 'tensors']]), parts: [{ path: '', weightMap: null, files: [''] }] };
  }
  const kinds = new Map();
  const directories = new Map([['', []]]);
  const hidden = (name) => directoryOf(name).split('/').some((component) => INSIDE.test(component));
  const present = new Set(names.filter((name) => !hidden(name)));
  for (const name of present) {
    let path = directoryOf(name);
    for (; !directories.has(path); path = directoryOf(path)) directories.set(path, []);
    directories.get(directoryOf(name)).push(name);
  }
  const isPart = partsOf(present, read);
  const parts = [];
  const foreign = [];
  const isForeign = (name) => foreign.some((path) => name.startsWith(`${path}/`));

  for (const [path, files] of [...directories].sort(([a], [b]) => byBytes(a, b))) {
    const shown = files.filter((name) => !baseOf(name).startsWith('.'));
    const weights = shown.filter((name) => name.endsWith('.safetensors') && !kinds.has(name));
    const indexes = shown.filter((name) => name.endsWith(INDEX));
    const main = join(path, `model${INDEX}`);
    const index = indexes.includes(main) || indexes.length !== 1 ? main : indexes[0];
    const hasIndex = indexes.includes(index);
    if (path !== '') {
      const hasTensors = weights.length > 0 || hasIndex;
      if (!hasTensors || isForeign(path)) continue;
      if (!isPart(path)) {
        foreign.push(path);
        continue;
      }
    }
    const part = { path, weightMap: hasIndex ? readIndex(path, read(index)) : null, files: weights };
    if (hasIndex) {
      const led = [...new Set(part.weightMap.values())];
      const there = led.filter((name) => present.has(name));
      if (there.length === 0 && weights.length > 0) { // saved anew under other names
        kinds.set(index, 'unindexed');
        part.weightMap = null;
      } else {
        if (there.length === 0 || there.length < led.length) refuse(`${quote(index)} leads to no file`);
        for (const name of weights) kinds.set(name, 'unindexed');
        part.files = there;
      }
    }
    for (const name of part.files) kinds.set(name, 'tensors');
    parts.push(part);
  }
  if (parts.every(({ files }) => files.length === 0)) refuse('a directory without a tensor file');

  for (const name of names) {
    if (kinds.get(name) === 'tensors') continue;
    const out = !isFileName(name) || LEFT_OUT.some((pattern) => pattern.test(baseOf(name)));
    if (!present.has(name)) kinds.set(name, 'left out');
    else if (isForeign(name)) kinds.set(name, 'foreign');
    else if (!kinds.has(name)) kinds.set(name, out ? 'left out' : 'companion');
  }
  return { kinds, parts };
}

function readIndex(path, bytes) {
  const json = parseJson(bytes);
  const map = json instanceof Map ? json.get('weight_map') : undefined;
  if (!(map instanceof Map)) refuse('an index has no weight_map');
  return new Map([...map].map(([tensor, file]) => {
    if (typeof file !== 'string' || !isFileName(file)) refuse('an index leads to what is no file name');
    return [tensor, join(path, file)];
  }));
}

// Says which subdirectories that have tensors are parts of the model.
function partsOf(present, read) {
  if (present.has('model_index.json')) return () => true;
  const none = () => false;
  if (!present.has('modules.json')) return none;
  let modules;
  try {
    modules = parseJson(read('modules.json'));
  } catch {
    return none; // it is not what it should be, and lists nothing
  }
  if (!Array.isArray(modules) || !modules.every((module) => module instanceof Map)) return none;
  const given = modules.filter((module) => module.has('path')).map((module) => module.get('path'));
  if (!given.every((path) => typeof path === 'string')) return none;
  const plain = (path) => path.split('/').filter((part) => part !== '' && part !== '.').join('/');
  const paths = new Set(given.filter((path) => !path.startsWith('/')).map(plain));
  return (path) => paths.has(path);
}

// The tensors of a checkpoint by their names [R99]. `read` gives the described bytes of a tensor file.
function nameTensors(parts, read) {
  const named = new Map();
  for (const { path, weightMap, files } of parts) {
    const tensorsOf = (file) => parseHeader(read(file)).tensors.map((tensor) => ({ ...tensor, file }));
    const all = files.flatMap(tensorsOf);
    const homes = new Map(); // the files in whose headers each name stands
    for (const { name, file } of all) homes.set(name, [...(homes.get(name) ?? []), file]);
    for (const tensor of all) {
      const several = homes.get(tensor.name);
      const home = several.length === 1 ? tensor.file : weightMap?.get(tensor.name);
      if (!several.includes(home)) refuse(`nothing says which ${quote(tensor.name)} is meant`);
      const name = join(home === tensor.file ? path : tensor.file, tensor.name);
      if (named.has(name)) refuse(`there are two tensors ${quote(name)}`);
      named.set(name, tensor);
    }
  }
  return named;
}

// Reads the tensors of a checkpoint, for `applyPatch`.
export function readTensors(source) {
  const tensors = new Map();
  const data = new Map();
  const read = (file) => {
    const content = source.read(file);
    const described = describedBytes(content);
    data.set(file, content.subarray(described.length));
    if (parseHeader(described).size !== data.get(file).length) refuse(`${quote(file)} has another size`);
    return described;
  };
  for (const [name, { dtype, shape, begin, end, file }] of nameTensors(layout(source).parts, read)) {
    if (shape.length > 255 || encodeText(dtype).length > 255) refuse(`${quote(name)} has no digest`); // §5
    tensors.set(name, { dtype, shape, bytes: data.get(file).subarray(begin, end) });
  }
  return tensors;
}

// ---- rebuilding (§9) ----

// Gives the files of the target as a Map from paths to lists of bytes; a single file has the empty path.
// `tensors` is what applyPatch made, `base` a source, or null for a snapshot.
export function rebuildFiles(patch, tensors, base) {
  if (patch.files.length === 0) return keepFiles(patch, tensors, base);
  const single = patch.files.some(({ name }) => name === '');
  if (single && patch.files.length > 1) refuse('a single file, and another'); // [R75]
  const listed = patch.files.filter(({ state }) => state !== REMOVED); // [R73]
  const described = new Map(listed.map((file) => [file.name, file.content ?? keptBytes(file, base)]));
  const { kinds, parts } = layout({ names: [...described.keys()], read: (name) => described.get(name) });
  for (const { kind, name } of listed) checkKind(kind, name, kinds.get(name));
  return writeFiles(described, parts, tensors);
}

function keptBytes({ kind, name, bytes, sha256: expected }, base) { // [R74]
  if (!base?.names.includes(name)) refuse(`the base has no ${quote(name)} to keep`);
  const content = base.read(name);
  const described = kind === TENSORS ? describedBytes(content) : content;
  const same = described.length === bytes && sameBytes(sha256(described), expected);
  return same ? described : refuse(`the base has another ${quote(name)} than the one to keep`);
}

function checkKind(kind, name, is) { // [R95]
  const small = name.toLowerCase();
  const odd = (end) => small.endsWith(end) && !name.endsWith(end);
  const legal = kind === TENSORS
    ? is === 'tensors'
    : !['tensors', 'unindexed', 'foreign'].includes(is) && !odd('.safetensors') && !odd(INDEX);
  if (!legal) refuse(`readers would not take ${quote(name)} for what it is (${is})`);
}

function writeFiles(described, parts, tensors) { // [R72]
  const named = nameTensors(parts, (file) => described.get(file));
  if (named.size !== tensors.size) refuse(`${named.size} tensors in headers, ${tensors.size} in the target`);
  const output = new Map([...described].map(([name, bytes]) => [name, [bytes]]));
  for (const [name, entry] of named) { // the tensors of each file in the order of their places
    const tensor = tensors.get(name);
    if (!tensor || !isOf(tensor, entry)) refuse(`${quote(name)} is not that of the target`); // [R77]
    output.get(entry.file).push(tensor.bytes);
  }
  return output;
}

// No file sections [R78]: the files of the base if every tensor is patched, else a file of our own making.
function keepFiles(patch, tensors, base) {
  const kept = !patch.header.snapshot && patch.tensors.every(({ action }) => action === PATCHED);
  if (!kept) return new Map([['', ownFile(tensors)]]);
  const { kinds, parts } = layout(base);
  const described = new Map();
  for (const name of base.names) {
    const is = kinds.get(name);
    if (is === 'tensors') described.set(name, describedBytes(base.read(name)));
    if (is === 'companion') described.set(name, base.read(name));
  }
  return writeFiles(described, parts, tensors);
}

function ownFile(tensors) {
  let at = 0;
  const entries = [...tensors].map(([name, { dtype, shape, bytes }]) => {
    const offsets = [at, (at += bytes.length)];
    return `${quote(name)}:{"dtype":${quote(dtype)},"shape":[${shape}],"data_offsets":[${offsets}]}`;
  });
  const json = encodeText(`{${entries}}`);
  return [littleEndian(json.length, 8), json, ...[...tensors.values()].map(({ bytes }) => bytes)];
}
