// A record that is not in order is refused with the right code, by whatever way it comes, and nothing changes.

import assert from 'node:assert/strict'
import { trial } from './testkit/lab.mjs'
import { Krpc } from './testkit/krpc.mjs'
import { serves } from './testkit/canary.mjs'
import { badRecords, current, record } from './testkit/bad_records.mjs'
import { Key, target } from './testkit/record.mjs'
import { Socket } from './testkit/socket.mjs'
import { run } from './testkit/swarmgate.mjs'

/** @typedef {import('./testkit/bad_records.mjs').Put} Put */

const { key, good: GOOD, refused: REFUSED } = badRecords()

/** What only a text can get wrong. */
const MALFORMED = [
  { what: 'a key of 31 bytes', change: { k: '5a'.repeat(31) } },
  { what: 'a signature of 63 bytes', change: { sig: '5a'.repeat(63) } },
  { what: 'a value that is not hexadecimal', change: { v: 'xyz' } },
  { what: 'a value of an odd number of digits', change: { v: 'abc' } },
  { what: 'no value', change: { v: undefined } },
  { what: 'a seq below zero', change: { seq: -1 } },
  { what: 'a seq beyond 2^53-1', change: { seq: 2 ** 53 } },
  { what: 'a seq with a fraction', change: { seq: 5.5 } },
  { what: 'a seq that is text', change: { seq: '5' } },
]

trial('a bad record is refused over the WebSocket', async (lab) => {
  const server = await lab.server()
  const socket = await Socket.open(server.socket)
  assert.deepEqual(await put(GOOD), {
    action: 'dht_put',
    id: '1',
    target: target(key.public).toString('hex'),
    seq: 5,
    stored: 0,
  })
  for (const { what, put: bad, code } of REFUSED) {
    const reply = await put(bad)
    assert.equal(reply.code, code, `${what}: ${JSON.stringify(reply)}`)
    assert.match(reply['failure reason'], /^[a-z][^\n]{10,120}$/, what)
    if (code > 300) assert.deepEqual(current(reply.current), record(GOOD), what)
  }
  for (const { what, change } of MALFORMED) {
    const reply = await socket.ask({ action: 'dht_put', ...record(GOOD), ...change })
    assert.equal(reply.code, 203, `${what}: ${JSON.stringify(reply)}`)
  }
  const got = await socket.ask({ action: 'dht_get', k: key.hex })
  assert.deepEqual(current(got), record(GOOD), 'what was there still is')
  await socket.close()
  await serves(server, 'bad records over the WebSocket')

  /** @param {Put} bad */
  function put(bad) {
    return socket.ask({ action: 'dht_put', ...record(bad) })
  }
})

trial('a bad record is refused over HTTP', async (lab) => {
  const server = await lab.server()
  const url = `http://${server.ready.web}/v1/records/`
  assert.equal((await put(record(GOOD))).status, 200)
  for (const { what, put: bad, code, status } of REFUSED) {
    const reply = await put(record(bad))
    assert.deepEqual([reply.status, reply.body.code], [status, code], `${what}: ${JSON.stringify(reply.body)}`)
    assert.match(reply.body.error, /^[a-z][^\n]{10,120}$/, what)
    if (code > 300) assert.deepEqual(current(reply.body.current), record(GOOD), what)
  }
  for (const { what, change } of MALFORMED) {
    const reply = await put({ ...record(GOOD), ...change })
    assert.equal(reply.status, 400, `${what}: ${JSON.stringify(reply.body)}`)
  }
  const large = await put({ ...record(GOOD), v: 'ab'.repeat(1_000_000) })
  assert.equal(large.status, 413)
  assert.equal((await fetch(`${url}${'5a'.repeat(31)}`)).status, 400, 'get: a key of 31 bytes')
  assert.equal((await fetch(`${url}${key.hex}?salt=xyz`)).status, 400, 'get: a salt that is not hexadecimal')
  assert.equal((await fetch(`${url}${new Key().hex}`)).status, 404, 'get: an unknown key')
  const got = await fetch(`${url}${key.hex}`)
  assert.equal(got.headers.get('etag'), '"5"')
  assert.deepEqual(current(await got.json()), record(GOOD), 'what was there still is')
  await serves(server, 'bad records over HTTP')

  /** @param {any} body */
  async function put(body) {
    const answer = await fetch(`${url}${body.k}`, { method: 'PUT', body: JSON.stringify(body) })
    const text = await answer.text()
    return { status: answer.status, body: text.startsWith('{') ? JSON.parse(text) : { error: text } }
  }
})

trial('a bad record is refused by the command line', async (lab) => {
  const server = await lab.server()
  const good = await put(GOOD)
  assert.deepEqual([good.code, good.json.ok, good.json.code], [0, true, null])
  for (const { what, put: bad, code, exit } of REFUSED) {
    const outcome = await put(bad)
    assert.equal(outcome.code, exit, `${what}: ${outcome.stdout}${outcome.stderr}`)
    if (exit !== 2) assert.deepEqual([outcome.json.ok, outcome.json.code], [false, code], what)
  }
  const found = await run(['resolve', key.hex, '--server', `http://${server.ready.web}`, '--json'])
  const { v, seq, sig } = record(GOOD)
  assert.deepEqual(
    { v: found.json.v, seq: found.json.seq, sig: found.json.sig, ih: found.json.ih },
    { v, seq, sig, ih: '5a'.repeat(20) },
  )
  await serves(server, 'bad records by the command line')

  /** @param {Put} bad */
  function put(bad) {
    const { k, seq, v, sig, salt, cas } = record(bad)
    const optional = [...(salt ? ['--salt', salt] : []), ...(cas === undefined ? [] : ['--cas', `${cas}`])]
    const args = ['--key', k, '--seq', `${seq}`, '--v', v, '--sig', sig, ...optional]
    return run(['put', ...args, '--server', `http://${server.ready.web}`, '--json'])
  }
})

trial('a bad record is refused from another node of the DHT', async (lab) => {
  const server = await lab.server()
  const krpc = await Krpc.open(server.dht)
  lab.keep(krpc, { stop: async () => krpc.close() })
  assert.ok((await put(GOOD)).r)
  for (const { what, put: bad, code } of REFUSED) {
    const { e } = await put(bad)
    assert.equal(e?.[0], code, `${what}: ${e}`)
  }
  const got = await krpc.query('get', { target: target(key.public) })
  assert.equal(got.r.seq, 5)
  assert.equal(Buffer.from(got.r.sig).toString('hex'), GOOD.sig.toString('hex'), 'what was there still is')
  await serves(server, 'bad records from another node')

  /** The token comes with a get, as BEP 44 asks; `v` goes out as it is, canonical or not. @param {Put} bad */
  async function put(bad) {
    const { r } = await krpc.query('get', { target: target(bad.k, bad.salt) })
    const { k, seq, sig, v, salt, cas } = bad
    const given = { k, seq, sig, token: r.token, ...(salt && { salt }), ...(cas !== undefined && { cas }) }
    return krpc.queryRaw('put', given, v)
  }
})
