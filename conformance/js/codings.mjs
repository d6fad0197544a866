// SPEC.md §6.2 (dtypes) and §7: how a block's changes are written.
import { ZSTDDecoder } from 'zstddec';
import { Fields, fail, integer } from './bytes.mjs';

const zstd = new ZSTDDecoder(); // the reference decoder, as WebAssembly
await zstd.init();

// Elements are read as typed arrays, which have the byte order of the machine.
if (new Uint8Array(Uint16Array.of(1).buffer)[0] !== 1) throw new Error('a little-endian machine is needed');

// ---- dtypes (§6.2), ranks and steps (§7.1) ----

const ARRAYS = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array, 8: BigUint64Array };

// Elements of 64 bits are BigInts, others Numbers; `num` makes either. `move` is the step form of §7.1.
function dtype(name, bytes, order, mantissa = 0) {
  const wide = bytes === 8;
  const type = { name, bytes, bits: 8 * bytes, float: order === 'float', Elements: ARRAYS[bytes] };
  type.num = wide ? BigInt : Number;
  type.max = wide ? 2n ** 64n - 1n : 2 ** type.bits - 1;
  const all = type.max;
  const sign = wide ? 2n ** 63n : 2 ** (type.bits - 1);
  const unsigned = wide ? (x) => x : (x) => x >>> 0; // operators on Numbers give signed 32 bits
  const rank = (x) => (order === 'unsigned' ? x : order === 'float' && x & sign ? x ^ all : x ^ sign);
  const inverse = (r) => (order === 'unsigned' ? r : order === 'signed' || r & sign ? r ^ sign : r ^ all);
  type.move = wide
    ? (b, z) => inverse(BigInt.asUintN(64, rank(b) + (z & 1n ? -(z >> 1n) - 1n : z >> 1n)))
    : (b, z) => unsigned(inverse((unsigned(rank(b)) + (z % 2 ? -(z + 1) / 2 : z / 2)) & all));
  // The exponent of a base element, which makes its class (§7.5).
  type.greatestExponent = type.float ? 2 ** (type.bits - 1 - mantissa) - 1 : 0;
  type.exponent = wide
    ? (b) => Number(b >> BigInt(mantissa)) % (type.greatestExponent + 1)
    : (b) => (b >>> mantissa) & type.greatestExponent;
  return type;
}

// The table is closed [R30]: what it does not have travels by name, with elements of one byte.
export const BY_NAME = dtype('', 1, 'unsigned');
export const DTYPES = [
  BY_NAME,
  dtype('BOOL', 1, 'unsigned'), dtype('U8', 1, 'unsigned'), dtype('I8', 1, 'signed'),
  dtype('F8_E4M3', 1, 'float', 3), dtype('F8_E5M2', 1, 'float', 2), dtype('F8_E8M0', 1, 'unsigned'),
  dtype('I16', 2, 'signed'), dtype('U16', 2, 'unsigned'), dtype('F16', 2, 'float', 10),
  dtype('BF16', 2, 'float', 7), dtype('I32', 4, 'signed'), dtype('U32', 4, 'unsigned'),
  dtype('F32', 4, 'float', 23), dtype('C64', 8, 'unsigned'), dtype('F64', 8, 'float', 52),
  dtype('I64', 8, 'signed'), dtype('U64', 8, 'unsigned'),
];

export const dtypeOfName = (name) => DTYPES.find((type) => type !== BY_NAME && type.name === name);

// The size of a tensor of this shape, as a BigInt: it may exceed 64 bits [R32].
export const sizeOf = (type, shape) => shape.reduce((size, n) => size * BigInt(n), BigInt(type.bytes));

// ---- packed streams (§7.2) ----

const FRAME_BLOCK = 131072;

// `checkSize` refuses a wrong content size, before anything is unpacked [R53].
export function unpackStream(fields, checkSize) {
  const head = BigInt(fields.varint());
  const bytes = fields.take(integer(head >> 1n));
  if (head & 1n) return unpackFrame(bytes, checkSize);
  checkSize(bytes.length);
  return bytes;
}

function unpackFrame(frame, checkSize) {
  const fields = new Fields(frame, 'stream');
  if (fields.u32() !== 0xfd2fb528) fail('stream', 'no zstd frame'); // [R50]
  const descriptor = fields.u8();
  if ((descriptor & 0x3f) !== 0x20) fail('stream', `frame descriptor ${descriptor}`); // [R51]
  const width = descriptor >> 6;
  const size = width === 1 ? fields.u16() + 256 : fields[['u8', '', 'u32', 'u64'][width]]();
  checkSize(size);

  // The heads of the blocks say where the frame ends, and how much it can hold at most [R50].
  let blocks = 0;
  let last = 0;
  while (!last) {
    const head = fields.u16() + fields.u8() * 65536;
    last = head & 1;
    const type = (head >> 1) & 3;
    const length = head >> 3;
    if (type === 3 || length > Math.min(size, FRAME_BLOCK)) fail('stream', 'a block of a frame is not legal');
    if (type === 2 && length === 0) fail('stream', 'a compressed block of no bytes');
    fields.skip(type === 1 ? 1 : length);
    blocks++;
  }
  fields.end();
  if (size > blocks * FRAME_BLOCK) fail('stream', `${blocks} blocks cannot hold ${size} bytes`);
  if (size === 0) return new Uint8Array(0); // no block holds anything, and the decoder takes 0 for "unknown"
  const content = zstd.decode(frame, size); // of another length where the decoder refuses the frame
  if (content.length !== size) fail('stream', 'a damaged frame'); // [R52]
  return content;
}

const exactly = (n) => (size) => size === n || fail('stream', `a stream of ${size} bytes, not ${n}`);
export const atMost = (n) => (size) => size <= n || fail('stream', `a stream of ${size} bytes of ${n}`);

// ---- blocks ----

export const WHOLE = 0;
const CODINGS = [readWhole, readFlat, readContextual];
export const isCoding = (code) => code < CODINGS.length; // [R48]

// Reads the payload of a block and checks all that can be checked without the base. Returns a function that
// makes the bytes of the target from those of the base, anew, so that an error changes nothing [R62].
export function readBlock(tensor, block) {
  const fields = new Fields(block.payload);
  const decode = CODINGS[block.coding](fields, tensor, block);
  fields.end(); // [R49]
  return decode;
}

const elementsOf = (bytes, type) => new type.Elements(bytes.slice().buffer); // a copy, and so aligned
const bytesOf = (elements) => new Uint8Array(elements.buffer);

function readWhole(fields, { type }, { elements }) { // §7.4
  const form = fields.u8();
  if (form > 1) fail('value', `whole form ${form}`); // [R59]
  const planes = Array.from({ length: type.bytes }, () => unpackStream(fields, exactly(elements)));
  return () => {
    const target = new Uint8Array(elements * type.bytes);
    planes.forEach((plane, p) => {
      const above = planes[(p + 1) % type.bytes]; // rotated, it has the highest bit of this byte
      for (let i = 0; i < elements; i++) {
        target[i * type.bytes + p] = form === 0 ? plane[i] : (plane[i] >> 1) | (above[i] << 7);
      }
    });
    return target;
  };
}

const [STEP, XOR] = [0, 1];

function readNumbers(fields, width, n) { // [R55]
  const checkSize = width === 0 ? atMost(10 * n) : exactly(2 ** (width - 1) * n);
  const numbers = new Fields(unpackStream(fields, checkSize), 'stream');
  numbers.next = numbers[['varint', 'u8', 'u16', 'u32', 'u64'][width]];
  return numbers;
}

function readFlat(fields, { type }, { elements, changes }) { // §7.3
  const head = fields.u8();
  const [gapWidth, form, valueWidth] = [head & 7, (head >> 3) & 3, head >> 5];
  if (gapWidth > 3 || form > 2 || valueWidth > 4) fail('value', `flat form ${head}`); // [R54]
  const gaps = readNumbers(fields, gapWidth, changes);
  const values = readNumbers(fields, valueWidth, changes);
  const places = new Uint32Array(changes);
  const news = new type.Elements(changes);
  let e = 0;
  for (let i = 0; i < changes; i++) {
    const gap = gaps.next();
    if (gap >= elements - e) fail('position', `a change lies past the ${elements} elements`); // [R56]
    e += gap;
    const value = values.next();
    if (value > type.max) fail('value', `${value} exceeds ${type.bits} bits`); // [R57]
    if (value === 0 && (form === STEP || form === XOR)) fail('value', 'a change by 0'); // [R58]
    places[i] = e;
    news[i] = type.num(value);
    e += 1;
  }
  gaps.end();
  values.end();
  return (base) => {
    const target = elementsOf(base, type);
    places.forEach((place, i) => {
      const b = target[place];
      target[place] = form === STEP ? type.move(b, news[i]) : form === XOR ? b ^ news[i] : news[i];
    });
    return bytesOf(target);
  };
}

// ---- the contextual coding (§7.5) ----

class Bits {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
    this.left = 8 * bytes.length;
  }

  bits(n) { // up to 53 of them
    if (n > this.left) fail('stream', 'the codes end too early'); // [R88]
    let value = 0;
    for (let got = 0; got < n; ) {
      const used = this.at % 8;
      const part = Math.min(8 - used, n - got);
      value += ((this.bytes[Math.floor(this.at / 8)] >> used) & (2 ** part - 1)) * 2 ** got;
      got += part;
      this.at += part;
      this.left -= part;
    }
    return value;
  }

  wide(n) {
    return n > 32 ? BigInt(this.bits(32)) + (BigInt(this.bits(n - 32)) << 32n) : BigInt(this.bits(n));
  }

  // A Rice code. k and r are at most 32 here, or 64 where `num` is BigInt.
  rice(k, r, num = Number) {
    let q = 0;
    while (q < 24 && this.bits(1) === 1) q++;
    const high = num(q) * num(2) ** num(k);
    const low = (n) => (num === BigInt ? this.wide(n) : this.bits(n));
    if (q < 24) return high + low(k);
    const v = low(r);
    if (v < high) fail('value', `${v} is written raw`); // [R89]: v >> k is less than 24
    return v;
  }

  // Fills up the last byte with zeros, and returns the bytes after it.
  rest() {
    if (this.bits(this.left % 8) !== 0) fail('reserved', 'padding that is not zero'); // [R88]
    return this.bytes.subarray(this.at / 8);
  }
}

function readTable(fields, type, tensor, elements) {
  const lowest = fields.varint();
  const head = fields.u8();
  const count = head & 127;
  const signed = head > 127; // the signs are predicted (§7.6)
  if (count < 1 || count > 32) fail('value', `${count} classes`);
  if (signed && !(tensor.shape.length >= 2 && tensor.columns >= 1 && tensor.columns <= 65536)) {
    fail('value', 'predicted signs in a tensor without rows and columns'); // [R100]
  }
  if (lowest > type.greatestExponent - count + 1) fail('value', `exponents from ${lowest} on`); // [R85]
  const classes = [];
  let [sum, tooMany] = [0, false];
  for (let i = 0; i < count; i++) {
    const c = { count: fields.varint(), dense: false, exceptions: 0 };
    classes.push(c);
    tooMany ||= c.count > elements - sum;
    if (!tooMany) sum += c.count;
    if (c.count === 0) continue;
    const parameters = fields.u16();
    [c.gapK, c.exceptionK, c.magnitudeK] = [parameters & 31, (parameters >> 5) & 31, parameters >> 10];
    c.dense = c.gapK === 31;
    if (c.exceptionK > (c.dense ? 0 : 30)) fail('value', `exception k ${c.exceptionK}`); // [R87]
    if (c.magnitudeK >= type.bits) fail('value', `magnitude k ${c.magnitudeK}`); // [R87]
    if (c.dense) continue;
    c.exceptions = fields.varint();
    if (c.exceptions > c.count) fail('value', `${c.exceptions} exceptions of ${c.count} changes`);
    const unused = c.exceptions === 0 && c.exceptionK + c.magnitudeK > 0;
    if (unused) fail('reserved', 'parameters without exceptions'); // [R87]
  }
  if (tooMany) fail('value', `more codes than ${elements} elements`); // [R86]
  if (sum > 8 * fields.left) fail('value', `${sum} changes in ${fields.left} bytes`); // [R86]
  return { lowest, classes, signed };
}

// A class gives gaps and zigzag steps, or magnitudes where signs are predicted.
function readClass(bits, type, signed, { count, dense, exceptions, gapK, exceptionK, magnitudeK }) {
  const { num } = type;
  const gaps = new Uint32Array(count);
  const steps = new type.Elements(count);
  const greatest = signed ? type.max / num(2) : type.max;
  const check = (step) => (step > greatest ? fail('value', 'a step is too wide') : step); // [R90]
  if (dense) {
    for (let i = 0; i < count; i++) steps[i] = check(bits.rice(magnitudeK, type.bits, num));
    return { gaps, steps };
  }
  for (let i = 0; i < count; i++) {
    const gap = bits.rice(gapK, 32);
    if (gap >= 2 ** 32 - 1) fail('position', `gap ${gap}`); // [R91]
    gaps[i] = gap;
  }
  for (let i = 0; i < count; i++) steps[i] = num(signed ? 1 : 2 - bits.bits(1));
  const places = [];
  let at = 0;
  for (let i = 0; i < exceptions; i++) {
    at += bits.rice(exceptionK, 32);
    if (at >= count) fail('position', `exception ${at} of ${count}`); // [R91]
    places.push(at++);
  }
  for (const place of places) {
    const magnitude = num(2) + bits.rice(magnitudeK, type.bits, num);
    const step = signed ? magnitude : num(2) * magnitude - (steps[place] & num(1));
    steps[place] = check(step);
  }
  return { gaps, steps };
}

function readContextual(fields, tensor, { start, elements, changes }) {
  const { type } = tensor;
  const { lowest, classes, signed } = readTable(fields, type, tensor, elements);
  const bits = new Bits(fields.take(fields.left));
  const lists = classes.map((c) => readClass(bits, type, signed, c));
  if (!signed && bits.left >= 8) fail('stream', 'bytes that no code needs'); // [R88]
  const signs = bits.rest();
  const given = lists.reduce((sum, { steps }) => sum + steps.filter((step) => step > 0).length, 0);
  if (given !== changes) fail('count', `the classes have ${given} changes, the block ${changes}`); // [R92]

  return (base) => {
    const target = elementsOf(base, type);
    const predictor = signed && new Signs(signs, tensor.columns, start / type.bytes);
    const at = lists.map(() => 0);
    const left = lists.map(({ gaps }) => gaps[0] ?? Infinity);
    for (let i = 0; i < elements; i++) {
      const c = Math.min(Math.max(type.exponent(target[i]) - lowest, 0), lists.length - 1);
      if (left[c]-- > 0) continue;
      const { gaps, steps } = lists[c];
      const step = steps[at[c]++];
      left[c] = gaps[at[c]] ?? Infinity;
      if (step > 0) target[i] = type.move(target[i], signed ? predictor.zigzag(i, step, type.num) : step);
    }
    if (lists.some(({ steps }, c) => at[c] < steps.length)) fail('position', 'a class has more'); // [R93]
    if (signed) predictor.end();
    return bytesOf(target);
  };
}

// ---- predicted signs (§7.6) ----

const clamp = (x, a, b) => Math.min(Math.max(x, a), b);

class Signs {
  constructor(bytes, columns, first) {
    Object.assign(this, { bytes, columns, first, at: 0, row: -1, range: 2 ** 32 - 1, code: 0 });
    this.v = new Int32Array(2 * columns).fill(256);
    for (let c = 1; c < columns; c += 2) this.v[2 * c + 1] = -256;
    this.startRow();
    for (let i = 0; i < 4; i++) this.code = this.code * 256 + this.byte();
    if (this.code === this.range) fail('stream', 'signs begin with 2^32 - 1');
  }

  byte() { return this.bytes[this.at++] ?? 0; }

  startRow() {
    this.u = [0, 0];
    this.weight = 16384;
    this.seen = [];
  }

  predict(c) {
    return (this.u[0] * this.v[2 * c] + this.u[1] * this.v[2 * c + 1]) >> 12;
  }

  // The zigzag of a step of this magnitude at element i of the block.
  zigzag(i, magnitude, num) {
    const element = this.first + i;
    const up = this.next(Math.floor(element / this.columns), element % this.columns);
    return num(2) * magnitude - num(up ? 0 : 1);
  }

  next(row, c) {
    const { u, v } = this;
    if (this.row !== row && this.row >= 0) {
      for (const [k, s] of this.seen) {
        const e = s - this.predict(k);
        for (const j of [0, 1]) v[2 * k + j] = clamp(v[2 * k + j] + ((e * u[j]) >> 11), -8191, 8191);
      }
      this.startRow();
    }
    this.row = row;
    const d = this.predict(c);
    const bound = (this.range >>> 16) * clamp(32768 + 8 * d, 1024, 64512);
    const up = this.code < bound;
    this.range = up ? bound : this.range - bound;
    this.code -= up ? 0 : bound;
    while (this.range < 2 ** 24) {
      this.range *= 256;
      this.code = this.code * 256 + this.byte();
    }
    const s = up ? 4096 : -4096;
    this.seen.push([c, s]);
    this.weight = Math.min(this.weight + ((v[2 * c] ** 2 + v[2 * c + 1] ** 2) >> 12), 2 ** 30);
    const t = Math.trunc(((s - d) * 16384) / this.weight);
    this.u = this.u.map((x, j) => clamp(x + ((t * v[2 * c + j]) >> 14), -8191, 8191));
    return up;
  }

  end() { // [R101]
    if (this.at !== this.bytes.length + 3) fail('stream', 'the sign stream does not end with the last sign');
    if (this.code >= 2 ** 24) fail('stream', 'the sign stream has another end');
  }
}
