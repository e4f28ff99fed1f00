// Records that nobody may take: the same for every way in.

import { Key, pointer } from './record.mjs'

/** @typedef {{ k: Buffer, v: Buffer, seq: number, salt?: Buffer | undefined, sig: Buffer, cas?: number }} Put */

/**
 * A record that is refused. `code` is that of BEP 44 (or BEP 5, where that has none), `status` that of HTTP, `exit` that of
 * the command. `gossip`: what a peer does who is sent it: closes the connection on what is a lie, ignores what is old or of
 * another record; takes what only a put can have wrong.
 * @typedef {{ what: string, put: Put, code: number, status: number, exit: number, gossip: 'closes' | 'ignores' | 'takes' }} Bad
 */

const V = pointer('5a'.repeat(20))
const LONG = Buffer.from(`997:${'x'.repeat(997)}`) // 1001 bytes in all
const LONGER = Buffer.from(`2995:${'x'.repeat(2995)}`)

/** A key's record in good order, and bad ones beside it. */
export function badRecords(key = new Key()) {
  const good = key.record({ v: V, seq: 5 })
  const sign = (/** @type {string} */ v) => key.record({ v: Buffer.from(v), seq: 6 })
  const nobody = { ...good, k: Buffer.alloc(32), sig: Buffer.alloc(64) }
  /** @type {[string, Put, number, number, number, Bad['gossip']][]} */
  const rows = [
    ['a forged signature', { ...good, seq: 6, sig: flip(good.sig) }, 206, 400, 1, 'closes'],
    ['the signature of another number', { ...good, seq: 6 }, 206, 400, 1, 'closes'],
    ['the wrong key', { ...good, k: new Key().public }, 206, 400, 1, 'ignores'],
    ['a value other than the signed', { ...good, v: pointer('5b'.repeat(20)) }, 206, 400, 1, 'closes'],
    ['a key of small order', nobody, 206, 400, 1, 'ignores'],
    ['a value of 1001 bytes', key.record({ v: LONG, seq: 6 }), 205, 400, 1, 'closes'],
    ['a value of 3000 bytes', key.record({ v: LONGER, seq: 6 }), 205, 400, 1, 'closes'],
    ['a salt of 65 bytes', key.record({ v: V, seq: 6, salt: Buffer.alloc(65, 1) }), 207, 400, 2, 'ignores'],
    ['a leading zero', sign('i01e'), 203, 400, 1, 'closes'],
    ['unsorted keys', sign('d1:bi1e1:ai1ee'), 203, 400, 1, 'closes'],
    ['two values', sign('i1ei2e'), 203, 400, 1, 'closes'],
    ['half a value', sign('5:half'), 203, 400, 1, 'closes'],
    ['a record of before', key.record({ v: V, seq: 0 }), 302, 409, 4, 'ignores'],
    ['a seq going back', key.record({ v: V, seq: 4 }), 302, 409, 4, 'ignores'],
    ['a wrong cas', { ...key.record({ v: V, seq: 6 }), cas: 4 }, 301, 412, 4, 'takes'],
  ]
  /** @type {Bad[]} */
  const refused = rows.map(([what, put, code, status, exit, gossip]) => ({ what, put, code, status, exit, gossip }))
  return { key, good, refused }
}

/** As the messages have it. @param {Put} put */
export function record({ k, v, seq, salt, sig, cas }) {
  return {
    k: k.toString('hex'),
    ...(salt && { salt: salt.toString('hex') }),
    seq,
    v: v.toString('hex'),
    sig: sig.toString('hex'),
    ...(cas !== undefined && { cas }),
  }
}

/** The record in a reply. @param {any} reply */
export function current({ k, seq, v, sig }) {
  return { k, seq, v, sig }
}

/** @param {Buffer} bytes */
function flip(bytes) {
  const flipped = Buffer.from(bytes)
  flipped[0] = /** @type {number} */ (flipped[0]) ^ 1
  return flipped
}
