// Verifies a log with nothing but Node (18 or newer): node verify.mjs LOG VKEY [TOKEN]
// LOG is a folder, or an address such as https://errand.example/log; TOKEN (an auditor's)
// is for logs that keep their entries for members. It opens the checkpoint, reads every
// entry, and computes the root anew. Status 1 where something does not hold, 2 where nothing
// could be verified.
import { createHash, createPublicKey, verify } from 'node:crypto';
import { readFile } from 'node:fs/promises';

const [log, vkey, token] = process.argv.slice(2);
const fail = (why, status = 1) => { console.error(`verify: ${why}`); process.exit(status); };
const unknown = (why) => fail(why, 2);
process.on('uncaughtException', (error) => unknown(error.cause?.code ?? error.cause?.message ?? error.message));
if (!log || !vkey) unknown('usage: node verify.mjs LOG VKEY [TOKEN]');

const missing = (path) => (path === 'checkpoint'
  ? unknown('there is no checkpoint: the address of a gateway\'s log ends in /log')
  : fail(`${path}: missing`));
const get = async (path) => {
  if (!/^https?:/.test(log)) {
    return readFile(`${log}/${path}`).catch((error) => (
      error.code === 'ENOENT' ? missing(path) : unknown(`${path}: ${error.code}`)));
  }
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const answer = await fetch(`${log.replace(/\/$/, '')}/${path}`, { headers });
  if ([401, 403].includes(answer.status)) {
    unknown(`${path}: HTTP ${answer.status}: TOKEN must be an auditor's, and not expired`);
  }
  if (answer.status === 404) missing(path);
  if (!answer.ok) unknown(`${path}: HTTP ${answer.status}`);
  return Buffer.from(await answer.arrayBuffer());
};
const sha256 = (...parts) => parts.reduce((h, p) => h.update(p), createHash('sha256')).digest();

// (1) The checkpoint: its text, and the signature of the log's key over it.
const parts = /^([^+]+)\+([0-9a-f]{8})\+(.+)$/.exec(vkey);
if (!parts) unknown('VKEY is no vkey: put it in quotation marks');
const [, name, id, typed] = parts;
const key = Buffer.from(typed, 'base64');
if (sha256(name, '\n', key).subarray(0, 4).toString('hex') !== id) unknown('the vkey is not whole');
const note = (await get('checkpoint')).toString();
const cut = note.lastIndexOf('\n\n');
const text = note.slice(0, cut + 1);
const spki = Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), key.subarray(1)]);
const holds = note.slice(cut + 2).split('\n').some((line) => {
  const value = Buffer.from(line.split(' ')[2] ?? '', 'base64');
  return line.startsWith(`— ${name} `) && value.subarray(0, 4).toString('hex') === id
    && verify(null, Buffer.from(text), createPublicKey({ key: spki, format: 'der', type: 'spki' }), value.subarray(4));
});
if (!holds) fail('the checkpoint is not signed with this key');
const [origin, size, root] = text.split('\n');
if (origin !== name) fail('the checkpoint is of another log');

// (2) Every entry, and the tree over them (RFC 6962): peaks of complete subtrees.
const peaks = [];
let count = 0;
for (let n = 0; n * 256 < Number(size); n += 1) {
  const width = Math.min(256, Number(size) - n * 256);
  const groups = String(n).padStart(Math.ceil(String(n).length / 3) * 3, '0').match(/.{3}/g);
  const path = groups.map((g, i) => (i < groups.length - 1 ? `x${g}` : g)).join('/');
  const bundle = await get(`tile/entries/${path}${width < 256 ? `.p/${width}` : ''}`);
  for (let at = 0; at < bundle.length; count += 1) {
    const end = at + 2 + (bundle[at] << 8 | bundle[at + 1]);
    if (!(end <= bundle.length)) fail(`${path}: cut short`);
    let hash = sha256('\0', bundle.subarray(at + 2, end));
    for (let bits = count; bits & 1; bits >>= 1) hash = sha256('\x01', peaks.pop(), hash);
    peaks.push(hash);
    at = end;
  }
}
if (count !== Number(size)) fail(`${count} entries instead of ${size}`);
const empty = sha256('');
const found = peaks.length ? peaks.reduceRight((right, left) => sha256('\x01', left, right)) : empty;
if (found.toString('base64') !== root) fail('the entries give another root');
console.log(`${origin}: ${size} entries under root ${root}`);
