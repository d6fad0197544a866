// node apply.mjs PATCH [--base BASE] --out OUT [--limit NAME=VALUE]...: applies a patch to files.
import fs from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { fail } from './bytes.mjs';
import { readTensors, rebuildFiles } from './files.mjs';
import { DEFAULT_LIMITS, PulseError, applyPatch, readPatch } from './pulse.mjs';

function readFile(file) {
  const buffer = fs.readFileSync(file);
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.length); // a Buffer has another `slice`
}

// A checkpoint on disk as files.mjs wants it. Links to files are followed, those to directories are not (§9).
function openCheckpoint(root) {
  if (!fs.statSync(root).isDirectory()) return { names: [''], read: () => readFile(root) };
  const names = [];
  const walk = (directory) => {
    for (const entry of fs.readdirSync(path.join(root, directory), { withFileTypes: true })) {
      const name = path.posix.join(directory, entry.name);
      if (entry.isDirectory()) walk(name);
      else if (fs.statSync(path.join(root, name), { throwIfNoEntry: false })?.isFile()) names.push(name);
    }
  };
  walk('');
  return { names, read: (name) => readFile(path.join(root, name)) };
}

// Output appears whole or not at all [R66], in a new place [R79].
function writeCheckpoint(output, out) {
  if (fs.existsSync(out)) fail('io', `${out} exists`);
  const place = fs.mkdtempSync(`${path.resolve(out)}.part-`);
  try {
    const made = path.join(place, 'out');
    for (const [name, parts] of output) {
      const file = path.join(made, name);
      fs.mkdirSync(path.dirname(file), { recursive: true });
      const handle = fs.openSync(file, 'wx'); // the file system may take two names for one
      for (const part of parts) fs.writeFileSync(handle, part);
      fs.closeSync(handle);
    }
    if (!output.has('')) {
      const names = openCheckpoint(made).names;
      if (names.length !== output.size || names.some((name) => !output.has(name))) {
        fail('checkpoint', 'the file system takes names for others');
      }
    }
    fs.renameSync(made, out);
  } finally {
    fs.rmSync(place, { recursive: true, force: true });
  }
}

const USAGE = 'apply.mjs PATCH [--base BASE] --out OUT [--limit NAME=VALUE]...';

function readArguments() {
  const text = { type: 'string' };
  const options = { base: text, out: text, limit: { type: 'string', multiple: true, default: [] } };
  try {
    return parseArgs({ options, allowPositionals: true });
  } catch {
    return fail('misuse', USAGE);
  }
}

function main() {
  const { values, positionals } = readArguments();
  const limits = values.limit.map((text) => text.split('=')).map(([name, value]) => [name, Number(value)]);
  const legal = ([name, n]) => Object.hasOwn(DEFAULT_LIMITS, name) && Number.isSafeInteger(n) && n >= 0;
  if (positionals.length !== 1 || !values.out || !limits.every(legal)) fail('misuse', USAGE);
  const patch = readPatch(readFile(positionals[0]), Object.fromEntries(limits));
  const { snapshot } = patch.header;
  if (!snapshot && values.base === undefined) fail('misuse', 'a patch that is no snapshot needs --base');
  const base = snapshot ? null : openCheckpoint(values.base);
  const tensors = applyPatch(patch, base ? readTensors(base) : undefined);
  writeCheckpoint(rebuildFiles(patch, tensors, base), values.out);
}

try {
  main();
} catch (error) {
  const kind = error instanceof PulseError ? error.kind : error.syscall ? 'io' : undefined;
  if (kind === undefined) throw error; // a mistake of this program
  console.error(`${kind}: ${error.message}`);
  process.exitCode = 1;
}
