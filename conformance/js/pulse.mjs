// Reads a patch from first byte to last (SPEC.md §§3 to 8.1), and applies it to a base (§8.2, §8.4).
import {
  Fields, PulseError, Sha256, compareBytes, concat, crc32, decodeText, encodeText, fail, littleEndian,
  sameBytes, sha256,
} from './bytes.mjs';
import {
  BY_NAME, DTYPES, WHOLE, atMost, dtypeOfName, isCoding, readBlock, sizeOf, unpackStream,
} from './codings.mjs';

export { PulseError };

export const DEFAULT_LIMITS = { // §10
  section_bytes: 67108864, block_leaves: 64, blocks: 16777216, expansion: 1024, // of blocks
  name_bytes: 4096, names_bytes: 134217728, name_expansion: 8, metadata_bytes: 1048576, // of names
  tensors: 1048576, rank: 64, files: 65536, target_bytes: 17592186044416, // of the target
};

const SIGNATURE = Uint8Array.of(0xab, 0x50, 0x4c, 0x53, 0x0d, 0x0a, 0x1a, 0x0a);
const LEAF = 65536;
export const [TENSORS, COMPANION] = [0, 1]; // kinds of files
export const [KEPT, NEW, REPLACED, REMOVED] = [0, 1, 2, 3]; // their states
export const [PATCHED, ADDED, REPLACED_TENSOR, DELETED] = [0, 1, 2, 3]; // actions
const HEADERS_BYTES = 100000008; // [R80]
const FILE_DATA_BYTES = 1048576; // [R43]

function within(value, limit, what) {
  if (value > limit) fail('limit', `${what}: ${value} exceeds ${limit}`);
}

export function isFileName(name) { // [R42], but for the empty name
  const components = name.split('/');
  const sized = (text, most) => text !== '' && encodeText(text).length <= most;
  const legal = (part) => sized(part, 255) && part !== '.' && part !== '..';
  return sized(name, 1024) && components.length <= 8 && components.every(legal) &&
    !/[\\:\u0000-\u001f\u007f-\u009f]/.test(name);
}

// Reads a whole patch, checks all that does not need the base, and returns what is in it.
export function readPatch(bytes, limits = {}) {
  return new PatchReader(bytes, { ...DEFAULT_LIMITS, ...limits }).read();
}

class PatchReader {
  constructor(bytes, limits) {
    this.limits = limits;
    this.input = new Fields(bytes, 'truncated'); // [R16]
    Object.assign(this, { header: null, files: [], tensors: [], index: null, footer: null });
    this.file = null; // the file that waits for data [R21]
    this.tensor = null; // the tensor between its header and its trailer
    this.names = { tensors: new Set(), files: new Set() }; // [R23]
    this.name = new Uint8Array(0); // that of the tensor header before (§2.3)
    this.sums = { names: 0, blocks: 0, changes: 0, target: 0, unpacked: 0, headers: 0 };
  }

  read() { // §8.1
    const { input } = this;
    if (!sameBytes(input.take(8), SIGNATURE)) fail('signature', 'not a .pulse file'); // [R11]
    const [major, minor] = input.take(2);
    if (major !== 1) fail('version', `version ${major}`); // [R1]; any minor version will do [R2]
    while (!this.footer) this.readSection();
    // The last field of the footer covers what is before it, and so neither itself nor the CRC [R47].
    const covered = input.bytes.subarray(0, input.at - 36);
    if (!sameBytes(sha256(covered), this.footer.sha256)) fail('file-digest', 'a wrong SHA-256 of the file');
    if (input.left > 0) fail('trailing', `${input.left} bytes follow the footer`); // [R17]
    return { minor, header: this.header, files: this.files, tensors: this.tensors, footer: this.footer };
  }

  readSection() { // §3.2
    const { input } = this;
    const start = input.at;
    const tag = String.fromCharCode(input.u8());
    if (!/[A-Za-z]/.test(tag)) fail('unknown-section', `tag ${tag.charCodeAt(0)} at ${start}`); // [R12]
    const length = input.varint();
    within(length, this.limits.section_bytes, 'section_bytes'); // [R14]
    const payload = input.take(length);
    const end = input.at;
    const crc = crc32(input.bytes.subarray(start, end));
    if (input.u32() !== crc) fail('crc', `section ${tag} at ${start}`); // [R13]
    const sections = {
      H: this.readHeader, l: this.readFile, d: this.readFileData, T: this.readTensor, B: this.readBlock,
      E: this.readTrailer, I: this.readIndex, F: this.readFooter,
    };
    const known = Object.hasOwn(sections, tag);
    if (!known && tag < 'a') fail('unknown-section', `critical section ${tag} at ${start}`); // [R12]
    if (!this.isAllowed(known ? tag : '')) fail('order', `section ${tag} at ${start}`); // [R19]
    if (!known) return; // [R3]
    // The bytes that justify what this section unpacks to (`name_expansion` and `expansion` of §10).
    this.section = { start, weight: start + payload.length };
    sections[tag].call(this, new Fields(payload));
  }

  isAllowed(tag) { // §4
    if (!this.header) return tag === 'H';
    if (this.index) return tag === 'F';
    if (tag === '') return true; // [R20]
    if (this.file) return tag === 'd'; // [R21]
    if (this.tensor) return tag === 'E' || (tag === 'B' && this.tensor.action !== DELETED); // [R22]
    return tag === 'T' || tag === 'I' || (tag === 'l' && this.tensors.length === 0);
  }

  readHeader(fields) { // §6.1
    const flags = fields.u8();
    if (flags > 31) fail('reserved', `header flags ${flags}`); // [R27]
    const header = { snapshot: (flags & 1) > 0, metadata: [] };
    header.blockLeaves = fields.varint();
    const { blockLeaves } = header;
    if (blockLeaves < 1 || blockLeaves > 1024) fail('value', `block size ${blockLeaves}`); // [R27]
    within(blockLeaves, this.limits.block_leaves, 'block_leaves');
    if (flags & 2) header.run = fields.take(16);
    if (flags & 4) header.baseStep = fields.varint();
    if (flags & 8) header.targetStep = fields.varint();
    if (flags & 16) header.baseDigest = fields.take(32);
    within(fields.left, this.limits.metadata_bytes, 'metadata_bytes');
    const count = fields.varint();
    let previous = null;
    for (let i = 0; i < count; i++) {
      const key = fields.string();
      if (previous && compareBytes(previous, key) >= 0) fail('duplicate', 'keys do not ascend'); // [R28]
      header.metadata.push([decodeText(key), decodeText(fields.string())]);
      previous = key;
    }
    fields.end();
    if (header.snapshot && flags & 20) fail('value', 'a snapshot has no base'); // [R25]
    this.header = header;
  }

  readFile(fields) { // §6.6
    within(this.files.length + 1, this.limits.files, 'files');
    const flags = fields.u8();
    const [kind, state] = [flags & 1 ? COMPANION : TENSORS, (flags >> 1) & 3];
    if (flags > 7 || (kind === TENSORS && state > NEW)) fail('reserved', `file flags ${flags}`); // [R41]
    const name = decodeText(fields.string((length) => within(length, this.limits.name_bytes, 'name_bytes')));
    const legal = isFileName(name) || (name === '' && kind === TENSORS);
    if (!legal) fail('name', `file ${JSON.stringify(name)}`); // [R42]
    const file = { kind, state, name, bytes: fields.varint(), content: null };
    const carried = state === NEW || state === REPLACED;
    if (carried) this.countTarget(file.bytes);
    file.sha256 = fields.take(32);
    if (state === REPLACED) {
      file.baseBytes = fields.varint();
      file.baseSha256 = fields.take(32);
      const same = file.baseBytes === file.bytes && sameBytes(file.baseSha256, file.sha256);
      if (same) fail('value', `${name} is replaced by itself`); // [R96]
    }
    fields.end();
    if (this.header.snapshot && state !== NEW) fail('value', `${name} is not new in a snapshot`); // [R24]
    this.addName(this.names.files, name);
    this.files.push(file);
    if (!carried) return;
    if (kind === TENSORS) {
      this.sums.headers += file.bytes;
      if (this.sums.headers > HEADERS_BYTES) fail('checkpoint', 'too many bytes of headers'); // [R80]
    }
    this.file = { ...file, file, left: file.bytes, parts: [], hash: new Sha256() };
    this.endFile();
  }

  readFileData(fields) { // §6.6
    const { file } = this;
    const part = unpackStream(fields, (size) => {
      if (size < 1) fail('value', 'file data of no bytes'); // [R43]
      atMost(Math.min(FILE_DATA_BYTES, file.left))(size); // [R43]
      this.countUnpacked(size);
    });
    fields.end();
    file.left -= part.length;
    file.parts.push(part);
    file.hash.update(part);
    this.endFile();
  }

  endFile() {
    const { file, left, parts, hash, name, sha256: expected } = this.file;
    if (left > 0) return;
    if (!sameBytes(hash.digest(), expected)) fail('digest', `the SHA-256 of ${name} is wrong`); // [R44]
    file.content = concat(parts);
    this.file = null;
  }

  readTensor(fields) { // §6.2
    const { limits, sums, section } = this;
    within(this.tensors.length + 1, limits.tensors, 'tensors');
    const name = fields.name(this.name, (shared, length) => {
      within(length, limits.name_bytes - shared, 'name_bytes');
      sums.names += shared + length;
      within(sums.names, limits.names_bytes, 'names_bytes');
      within(sums.names - 1048576, limits.name_expansion * section.weight, 'name_expansion');
    });
    const tensor = { name: decodeText(name), nameBytes: name, offset: section.start };
    Object.assign(tensor, { action: fields.u8(), blocks: [], end: 0, changes: 0 });
    if (tensor.action > DELETED) fail('value', `action ${tensor.action}`); // [R30]
    if (tensor.action !== DELETED) this.readShape(fields, tensor);
    fields.end();
    this.addName(this.names.tensors, tensor.name);
    if (this.header.snapshot && tensor.action !== ADDED) fail('value', 'a snapshot only adds'); // [R24]
    this.name = name;
    this.tensors.push(tensor);
    this.tensor = tensor;
  }

  readShape(fields, tensor) {
    const { limits } = this;
    const code = fields.u8();
    if (code >= DTYPES.length) fail('value', `dtype ${code}`); // [R30]
    tensor.type = DTYPES[code];
    tensor.dtype = tensor.type.name;
    if (tensor.type === BY_NAME) {
      const most = Math.min(255, limits.name_bytes);
      tensor.dtype = decodeText(fields.string((length) => within(length, most, 'a dtype name')));
      const legal = tensor.dtype !== '' && !dtypeOfName(tensor.dtype);
      if (!legal) fail('name', `dtype ${JSON.stringify(tensor.dtype)}`); // [R31]
      tensor.size = fields.varint();
    }
    const rank = fields.varint();
    within(rank, Math.min(255, limits.rank), 'rank');
    tensor.shape = Array.from({ length: rank }, () => fields.varint());
    if (tensor.type !== BY_NAME) {
      const size = sizeOf(tensor.type, tensor.shape);
      if (size >= 2n ** 64n) fail('value', 'the size of a tensor exceeds 64 bits'); // [R32]
      tensor.size = Number(size); // the limit keeps it below 2^53
    }
    this.countTarget(tensor.size);
    tensor.columns = tensor.type === BY_NAME ? 0 : tensor.shape.at(-1); // §7.6
  }

  readBlock(fields) { // §6.3
    const { tensor, limits } = this;
    within(++this.sums.blocks, limits.blocks, 'blocks');
    const coding = fields.u8();
    if (!isCoding(coding)) fail('value', `coding ${coding}`); // [R48]
    const skipped = fields.varint();
    const leaves = fields.varint();
    if (leaves < 1 || leaves > this.header.blockLeaves) fail('value', `a block of ${leaves} leaves`);
    const changes = fields.varint();
    if (changes < 1) fail('value', 'a block without changes'); // [R34]
    const put = tensor.action !== PATCHED;
    if (put && (coding !== WHOLE || skipped > 0)) fail('value', 'not whole, of a tensor put whole'); // [R35]
    const leavesLeft = Math.ceil((tensor.size - tensor.end) / LEAF);
    const outside = skipped >= leavesLeft || leaves > leavesLeft - skipped;
    if (outside) fail('value', 'a block leaves its tensor'); // [R33]
    const start = tensor.end + LEAF * skipped;
    const end = Math.min(start + LEAF * leaves, tensor.size);
    const elements = (end - start) / tensor.type.bytes;
    const wrong = put ? changes !== elements : changes > elements; // [R35], [R34]
    if (wrong) fail('count', `${changes} changes in ${elements} elements`);
    if (coding === WHOLE) this.countUnpacked(end - start);
    const block = { coding, start, end, elements, changes, payload: fields.take(fields.left) };
    readBlock(tensor, block); // only to check it: what it gives is made again when it is needed
    tensor.blocks.push(block);
    tensor.changes += changes;
    tensor.end = end;
  }

  readTrailer(fields) { // §6.4
    const { tensor } = this;
    const changes = fields.varint();
    if (tensor.action === PATCHED && changes === 0) fail('value', 'a tensor without changes'); // [R38]
    if (tensor.action !== ADDED) tensor.baseDigest = fields.take(32);
    if (tensor.action !== DELETED) tensor.targetDigest = fields.take(32);
    fields.end();
    if (changes !== tensor.changes) fail('count', `${changes} changes, not ${tensor.changes}`); // [R37]
    const put = tensor.action === ADDED || tensor.action === REPLACED_TENSOR;
    if (put && tensor.end < tensor.size) fail('count', 'the blocks do not cover the tensor'); // [R39]
    this.sums.changes += changes;
    this.tensor = null;
  }

  readIndex(fields) { // §6.5, compared entry by entry
    const { limits, tensors } = this;
    const count = fields.varint();
    within(count, limits.tensors, 'tensors');
    if (count !== tensors.length) fail('count', `${count} tensors, not ${tensors.length}`); // [R40]
    let previous = { nameBytes: new Uint8Array(0), offset: 0 };
    for (const tensor of tensors) {
      const check = (shared, length) => within(length, limits.name_bytes - shared, 'name_bytes');
      const name = fields.name(previous.nameBytes, check);
      if (!sameBytes(name, tensor.nameBytes)) fail('name', 'the index names another tensor'); // [R40]
      if (fields.varint() !== tensor.offset - previous.offset) fail('count', 'a wrong offset'); // [R40]
      previous = tensor;
    }
    fields.end();
    this.index = { offset: this.section.start };
  }

  readFooter(fields) { // §6.7
    const { header, sums } = this;
    const flags = fields.u8();
    if (flags > 1) fail('reserved', `footer flags ${flags}`); // [R45]
    const footer = { tensors: fields.u64(), changes: fields.u64() };
    footer.target = { tensors: fields.u64(), elements: fields.u64(), bytes: fields.u64() };
    const offset = fields.u64();
    footer.baseDigest = fields.take(32);
    const absent = flags === 0;
    if (absent && footer.baseDigest.some((byte) => byte > 0)) fail('reserved', 'an absent digest'); // [R45]
    footer.targetDigest = fields.take(32);
    footer.sha256 = fields.take(32);
    fields.end();
    if (absent !== header.snapshot) fail('count', 'header and footer differ on what is a snapshot'); // [R25]
    if (footer.tensors !== this.tensors.length) fail('count', `${footer.tensors} tensors`); // [R46]
    if (footer.changes !== sums.changes) fail('count', `${footer.changes} changes`); // [R46]
    if (offset !== this.index.offset) fail('count', `an index at ${offset}`); // [R46]
    within(footer.target.bytes, this.limits.target_bytes, 'target_bytes');
    if (header.baseDigest && !sameBytes(header.baseDigest, footer.baseDigest)) {
      fail('digest', 'header and footer name different bases'); // [R29]
    }
    this.footer = footer;
  }

  addName(names, name) {
    if (names.has(name)) fail('duplicate', `${JSON.stringify(name)} occurs twice`); // [R23]
    names.add(name);
  }

  countTarget(bytes) {
    within(bytes, this.limits.target_bytes - this.sums.target, 'target_bytes');
    this.sums.target += bytes;
  }

  countUnpacked(bytes) {
    this.sums.unpacked += bytes;
    within(this.sums.unpacked - 268435456, this.limits.expansion * this.section.weight, 'expansion');
  }
}

// ---- digests (§5) ----

// Tensors are { dtype, shape, bytes }, with the dtype as safetensors spells it. Their digests are kept.
const digests = new WeakMap();

export function tensorDigest(tensor) {
  let digest = digests.get(tensor);
  if (!digest) {
    const { bytes } = tensor;
    const all = new Sha256().update(Uint8Array.of(1));
    for (let at = 0; at < bytes.length; at += LEAF) {
      all.update(sha256(Uint8Array.of(0), bytes.subarray(at, at + LEAF)));
    }
    digest = all.digest();
    digests.set(tensor, digest);
  }
  return digest;
}

export function checkpointDigest(tensors) { // of a Map from names to tensors [R26]
  const all = new Sha256().update(Uint8Array.of(2));
  const entries = [...tensors].map(([name, tensor]) => [encodeText(name), tensor]);
  for (const [name, tensor] of entries.sort(([a], [b]) => compareBytes(a, b))) {
    const dtype = encodeText(tensor.dtype);
    all.update(littleEndian(name.length, 4)).update(name);
    all.update(littleEndian(dtype.length, 1)).update(dtype).update(littleEndian(tensor.shape.length, 1));
    for (const dimension of tensor.shape) all.update(littleEndian(dimension, 8));
    all.update(tensorDigest(tensor));
  }
  return all.digest();
}

// ---- applying a patch (§8.2, §8.4) ----

// Makes the tensors of the target, a Map like `base`. A snapshot needs no base.
export function applyPatch(patch, base = new Map()) {
  const { footer, header } = patch;
  if (header.snapshot) return makeTarget(patch, new Map());
  try {
    return makeTarget(patch, base);
  } catch (error) {
    // Which is at fault, patch or base? The digest of the base tells [R63].
    if (error instanceof PulseError && !sameBytes(checkpointDigest(base), footer.baseDigest)) {
      fail('base', `not the base of this patch (${error.kind}: ${error.message})`);
    }
    throw error;
  }
}

function makeTarget(patch, base) {
  const target = new Map(base);
  for (const tensor of patch.tensors) {
    const { name, action, dtype, shape } = tensor;
    const before = base.get(name);
    const quoted = JSON.stringify(name);
    if ((before === undefined) !== (action === ADDED)) {
      fail('checkpoint', `${quoted} is ${before ? '' : 'not '}in the base`);
    }
    target.delete(name);
    if (action === DELETED) continue;
    if (action === PATCHED && !isOf(before, tensor)) fail('checkpoint', `${quoted} has another shape`);
    const after = { dtype, shape, bytes: patchTensor(tensor, before?.bytes) };
    const right = sameBytes(tensorDigest(after), tensor.targetDigest);
    if (!right) fail('digest', `${quoted} is not what it should become`); // [R68]
    target.set(name, after);
  }
  const made = checkpointDigest(target);
  if (!sameBytes(made, patch.footer.targetDigest)) fail('digest', 'not the target'); // [R69]
  const sum = (of) => [...target.values()].reduce((total, tensor) => total + of(tensor), 0);
  const found = { tensors: target.size, elements: sum(elementsOf), bytes: sum(({ bytes }) => bytes.length) };
  for (const [what, count] of Object.entries(found)) {
    if (patch.footer.target[what] !== count) fail('count', `a target of ${count} ${what}`); // [R70]
  }
  for (const { name, action, baseDigest } of patch.tensors) { // [R94]; of patched ones nothing depends [R102]
    if (action !== REPLACED_TENSOR && action !== DELETED) continue;
    if (!sameBytes(tensorDigest(base.get(name)), baseDigest)) fail('base', `another ${JSON.stringify(name)}`);
  }
  return target;
}

export function isOf({ dtype, shape, bytes }, tensor) {
  const size = tensor.size ?? tensor.bytes.length;
  return dtype === tensor.dtype && bytes.length === size && shape.join() === tensor.shape.join();
}

const elementsOf = ({ dtype, bytes }) => bytes.length / (dtypeOfName(dtype) ?? BY_NAME).bytes;

function patchTensor(tensor, before) {
  const bytes = tensor.action === PATCHED ? before.slice() : new Uint8Array(tensor.size);
  for (const block of tensor.blocks) {
    bytes.set(readBlock(tensor, block)(bytes.subarray(block.start, block.end)), block.start);
  }
  return bytes;
}
