// What the DHT node makes of queries as others write them: any transaction id, any type of value, and a sentence for what
// it cannot read.

import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { serves } from './testkit/canary.mjs'
import { Krpc } from './testkit/krpc.mjs'
import { trial } from './testkit/lab.mjs'
import { Key, target } from './testkit/record.mjs'

const ID = '20:abcdefghij0123456789'

/** The arguments, and what follows them, of queries that are wrong in one thing. @type {{ what: string, a: string, q?: string, code?: number }[]} */
const MALFORMED = [
  { what: 'a value with a leading zero', a: `d2:id${ID}1:vi01ee`, q: 'put' },
  { what: 'half a value', a: `d2:id${ID}1:v50:halfe`, q: 'put' },
  { what: 'two values', a: `d2:id${ID}1:vi1ei2ee`, q: 'put' },
  { what: 'no value', a: `d2:id${ID}1:ve`, q: 'put' },
  { what: 'a length beyond the datagram', a: `d2:id${ID}1:v99999999:xe`, q: 'put' },
  { what: 'a list without an end', a: `d2:id${ID}1:vle`, q: 'put' },
  { what: 'a value too deep', a: `d2:id${ID}1:v${'l'.repeat(100)}${'e'.repeat(100)}e`, q: 'put' },
  { what: 'one argument twice', a: `d2:id${ID}2:id${ID}e`, q: 'ping' },
  { what: 'a key that is a number', a: `di1ei2ee`, q: 'ping' },
  { what: 'no id', a: 'de', q: 'ping' },
  { what: 'an id of 19 bytes', a: 'd2:id19:abcdefghij012345678e', q: 'ping' },
  { what: 'arguments that are text', a: '3:abc', q: 'ping' },
  { what: 'a target of 21 bytes', a: `d2:id${ID}6:target21:abcdefghij01234567890e`, q: 'get' },
  { what: 'no target', a: `d2:id${ID}e`, q: 'find_node' },
  { what: 'an announce without a port', a: `d2:id${ID}9:info_hash${ID}5:token1:xe`, q: 'announce_peer' },
  { what: 'a put without a token', a: `d2:id${ID}1:vi1ee`, q: 'put' },
  { what: 'an invented token', a: `d2:id${ID}5:token8:aaaaaaaa1:vi1ee`, q: 'put' },
  { what: 'an unknown method', a: `d2:id${ID}e`, q: 'dance', code: 204 },
  { what: 'no method', a: `d2:id${ID}e` },
]

const LENGTHS = [0, 1, 2, 4, 8, 20, 200]

trial('every query with a transaction id is answered, whatever is wrong with it', async (lab) => {
  const server = await lab.server()
  for (const { what, a, q, code = 203 } of MALFORMED) {
    // A socket each: an address that asks too much is not answered at all.
    const krpc = await asker(lab, server)
    for (const length of LENGTHS) {
      const t = randomBytes(length)
      const { e } = await krpc.exchange(query(a, q, t), t)
      assert.equal(e?.[0], code, `${what}, transaction id of ${length} bytes: ${e}`)
      assert.match(e?.[1] ?? '', /^[\w ,:'()-]{8,120}$/, what)
    }
  }
  await serves(server, 'malformed queries')
})

/** As they go over the wire. */
const VALUES = [
  'i0e',
  'i-7e',
  '0:',
  '4:spam',
  'le',
  'de',
  'li1e4:spamd1:ai1eee',
  'd2:ih20:aaaaaaaaaaaaaaaaaaaa1:x4:moree',
]

trial('values of every type come back byte for byte, to transaction ids of any length', async (lab) => {
  const server = await lab.server()
  const krpc = await asker(lab, server)
  const key = new Key()
  for (const [index, text] of VALUES.entries()) {
    const v = Buffer.from(text)
    const salt = Buffer.concat([Buffer.from([0, 255, index]), randomBytes(index)])
    for (const [name, at, put] of /** @type {const} */ ([
      ['a value', createHash('sha1').update(v).digest(), {}],
      ['a record', target(key.public, salt), key.record({ v, seq: 1, salt })],
    ])) {
      const { token } = (await krpc.query('get', { target: at })).r
      const { v: _, ...given } = /** @type {any} */ (put)
      assert.ok((await krpc.queryRaw('put', { ...given, token }, v)).r, `${name}: ${text}`)
      const t = randomBytes(LENGTHS[index % LENGTHS.length] ?? 2)
      const argument = `d2:id${ID}6:target20:${at.toString('latin1')}e`
      const raw = await krpc.raw(query(argument, 'get', t), t)
      assert.ok(raw.includes(Buffer.concat([Buffer.from('1:v'), v])), `${name}: ${text} in ${raw.toString('latin1')}`)
    }
  }
})

/** @param {import('./testkit/lab.mjs').Lab} lab @param {import('./testkit/swarmgate.mjs').Server} server */
async function asker(lab, server) {
  const krpc = await Krpc.open(server.dht)
  return lab.keep(krpc, { stop: async () => krpc.close() })
}

/** @param {string} a  bencode, or nearly so; one character a byte @param {string | undefined} q @param {Buffer} t */
function query(a, q, t) {
  const name = q === undefined ? '' : `1:q${q.length}:${q}`
  return Buffer.concat([Buffer.from(`d1:a${a}${name}1:t${t.length}:`, 'latin1'), t, Buffer.from('1:y1:qe')])
}
