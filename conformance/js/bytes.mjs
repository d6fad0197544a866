// What all else is made of: errors (SPEC.md §11), fields (§2), CRC-32 (§3.2), SHA-256 (§5).

export class PulseError extends Error {
  constructor(kind, message) {
    super(message);
    this.name = 'PulseError';
    this.kind = kind;
  }
}

export function fail(kind, message) {
  throw new PulseError(kind, message);
}

// Integers (§2.1). Those up to 2^53 - 1 are Numbers here, greater ones BigInts. So each integer has one form,
// `===` compares them, and `<` and `>` compare a Number with a BigInt exactly. What is added or multiplied
// was compared with a bound below 2^53 before.
export const integer = (big) => (big <= Number.MAX_SAFE_INTEGER ? Number(big) : big);

// A byte order mark is part of a string (§2.1).
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

export function decodeText(bytes, kind = 'name') {
  try {
    return utf8.decode(bytes);
  } catch {
    return fail(kind, 'not UTF-8');
  }
}

export const encodeText = (text) => new TextEncoder().encode(text);

export const sameBytes = (a, b) => a.length === b.length && a.every((byte, i) => byte === b[i]);

// The order of strings (§2.3): by bytes, which is not that of UTF-16.
export function compareBytes(a, b) {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) if (a[i] !== b[i]) return a[i] - b[i];
  return a.length - b.length;
}

export function littleEndian(value, size) {
  return Uint8Array.from({ length: size }, (_, i) => Number((BigInt(value) >> BigInt(8 * i)) & 255n));
}

export function concat(parts) {
  const all = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

// Reads fields one after the other. `short` is the kind of the error where bytes are missing: `length` in the
// payload of a section [R6], `stream` in a packed stream [R55], `truncated` in the file [R16], `checkpoint`
// in a safetensors header [R76].
export class Fields {
  constructor(bytes, short = 'length') {
    Object.assign(this, { bytes, short, at: 0 });
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get left() { return this.bytes.length - this.at; }
  u8() { return this.bytes[this.skip(1)]; }
  u16() { return this.view.getUint16(this.skip(2), true); }
  u32() { return this.view.getUint32(this.skip(4), true); }
  u64() { return integer(this.view.getBigUint64(this.skip(8), true)); }

  skip(n) {
    if (n > this.left) fail(this.short, `${n} bytes are due, and ${this.left} left`);
    this.at += n;
    return this.at - n;
  }

  take(n) {
    const start = this.skip(n);
    return this.bytes.subarray(start, this.at);
  }

  varint() { // §2.2
    let value = 0;
    for (let i = 0; ; i++) {
      const byte = this.u8();
      if (i === 9 && byte > 1) fail('varint', 'more than 64 bits'); // [R7]
      if (i > 0 && byte === 0) fail('varint', 'not in shortest form'); // [R7]
      if (i < 7) value += (byte & 127) * 2 ** (7 * i);
      else value = BigInt(value) | (BigInt(byte & 127) << BigInt(7 * i)); // more than 49 bits
      if (byte < 128) return i < 7 ? value : integer(value);
    }
  }

  // `check` compares the declared length with a limit before bytes are taken (§8.1).
  string(check = () => {}) {
    const length = this.varint();
    check(length);
    const bytes = this.take(length);
    decodeText(bytes); // [R8]
    return bytes;
  }

  name(previous, check) { // front-coded (§2.3)
    const shared = this.varint();
    if (shared > previous.length) fail('value', 'a name shares more bytes than there are'); // [R9]
    const length = this.varint();
    check(shared, length);
    const bytes = concat([previous.subarray(0, shared), this.take(length)]);
    decodeText(bytes); // [R8], of the whole name [R10]
    return bytes;
  }

  end() {
    if (this.left > 0) fail(this.short, `${this.left} bytes are left over`); // [R6]
  }
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let c = byte;
  for (let i = 0; i < 8; i++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
  return c;
});

export function crc32(bytes) {
  let c = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) c = (c >>> 8) ^ CRC_TABLE[(c ^ bytes[i]) & 255];
  return (c ^ 0xffffffff) >>> 0;
}

// SHA-256 (FIPS 180-4). Its constants are bits of roots of the first primes.
const PRIMES = [];
for (let n = 2; PRIMES.length < 64; n++) if (PRIMES.every((p) => n % p > 0)) PRIMES.push(n);
const fraction = (x) => Math.floor((x % 1) * 2 ** 32);
const ROUND = Uint32Array.from(PRIMES, (p) => fraction(Math.cbrt(p)));
const START = Uint32Array.from(PRIMES.slice(0, 8), (p) => fraction(Math.sqrt(p)));
const rotate = (x, n) => (x >>> n) | (x << (32 - n));

export class Sha256 {
  #state = START.slice();
  #words = new Uint32Array(64);
  #block = new Uint8Array(64);
  #size = 0;

  update(bytes) {
    let at = 0;
    while (at < bytes.length) {
      const used = this.#size % 64;
      const part = Math.min(64 - used, bytes.length - at);
      if (part === 64) this.#compress(bytes, at);
      else {
        this.#block.set(bytes.subarray(at, at + part), used);
        if (used + part === 64) this.#compress(this.#block, 0);
      }
      at += part;
      this.#size += part;
    }
    return this;
  }

  digest() {
    const size = this.#size;
    this.update(Uint8Array.of(0x80)).update(new Uint8Array((119 - (size % 64)) % 64));
    const bits = new DataView(new ArrayBuffer(8));
    bits.setBigUint64(0, BigInt(size) * 8n);
    this.update(new Uint8Array(bits.buffer));
    const out = new DataView(new ArrayBuffer(32));
    this.#state.forEach((word, i) => out.setUint32(4 * i, word));
    return new Uint8Array(out.buffer);
  }

  #compress(bytes, at) {
    const w = this.#words;
    for (let i = 0; i < 16; i++, at += 4) {
      w[i] = (bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3];
    }
    for (let i = 16; i < 64; i++) {
      const s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ (w[i - 15] >>> 3);
      const s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ (w[i - 2] >>> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    let [a, b, c, d, e, f, g, h] = this.#state;
    for (let i = 0; i < 64; i++) {
      const s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + ROUND[i] + w[i]) | 0;
      const s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + t1) | 0, c, b, a, (t1 + t2) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((word, i) => {
      this.#state[i] += word;
    });
  }
}

export function sha256(...parts) {
  const hash = new Sha256();
  for (const part of parts) hash.update(part);
  return hash.digest();
}
