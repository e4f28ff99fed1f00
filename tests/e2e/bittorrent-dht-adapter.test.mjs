// Code written against bittorrent-dht's get and put runs on the client library's adapter too: the same steps, taken on a
// real node and on the adapter through a server, come to the same results. The library is the built one, in Node.

import assert from 'node:assert/strict'
import { WebSocket } from 'ws'
import { trial } from './testkit/lab.mjs'
import { Key, target, verifies } from './testkit/record.mjs'

const LIBRARY = new URL('../../web-demo/dist/', import.meta.url).href

trial('get and put come to the same on bittorrent-dht and on the adapter', async (lab) => {
  const dht = await lab.dht()
  const server = await lab.server({ dht })
  const { Gateway } = await import(`${LIBRARY}client.js`)
  const { DHT } = await import(`${LIBRARY}client/bittorrent-dht.js`)
  const gateway = new Gateway([server.socket], { WebSocket })
  lab.keep(gateway, { stop: async () => gateway.close() })

  const [ours, theirs] = [new Key(Buffer.alloc(32, 1)), new Key(Buffer.alloc(32, 2))]
  assert.deepEqual(await steps(new DHT(gateway), ours), await steps(dht.last.node, theirs))

  // Each reads what the other put.
  assert.equal((await get(dht.first.node, target(ours.public), { cache: false })).seq, 2)
  const fresh = new DHT(gateway, { keys: [{ k: theirs.public }] })
  assert.equal((await get(fresh, target(theirs.public))).seq, 2)
})

/**
 * What a program does with its DHT, and what it sees.
 * @param {any} dht
 * @param {Key} key
 */
async function steps(dht, key) {
  const seen = []
  const sign = (/** @type {Buffer} */ message) => key.sign(message)
  const salt = Buffer.from('tides')
  const value = { ih: Buffer.alloc(20, 0xa5), list: [1, Buffer.from('x')] }

  for (const options of [{}, { salt }]) {
    for (const seq of [1, 2]) {
      const { hash, nodes } = await put(dht, { k: key.public, v: value, seq, sign, ...options })
      seen.push(['put', hash.length, nodes > 0])
      const res = await get(dht, hash, { k: key.public, verify: verifies, ...options })
      seen.push(['get', plain(res.v), res.seq, Buffer.isBuffer(res.sig), res.k.equals(key.public)])
      await put(dht, { ...res, ...options }) // again, as it was found
    }
  }
  const text = await put(dht, Buffer.from('an immutable text'))
  seen.push(['immutable', text.hash.toString('hex'), text.nodes > 0, plain((await get(dht, text.hash)).v)])
  seen.push(['by hexadecimal', plain((await get(dht, text.hash.toString('hex'))).v)])
  seen.push(['nothing', await get(dht, Buffer.alloc(20, 7))])

  for (const wrong of [
    {},
    { v: Buffer.alloc(1000) },
    { v: 'x', k: Buffer.alloc(31), seq: 1, sign },
    { v: 'x', k: key.public, seq: 1 },
    { v: 'x', k: key.public, sign },
    { v: 'x', k: key.public, seq: '1', sign },
    { v: 'x', k: key.public, seq: 1, cas: '0', sign },
    { v: 'x', k: key.public, seq: 1, sign, salt: Buffer.alloc(65) },
  ]) {
    assert.throws(
      () => dht.put(wrong),
      (error) => seen.push(['wrong', /** @type {Error} */ (error).message]) > 0,
    )
  }
  return seen
}

/** Decoded values of either, to compare. @param {unknown} value */
function plain(value) {
  return JSON.stringify(value, (_, inner) =>
    inner?.type === 'Buffer' ? Buffer.from(inner.data).toString('hex') : inner,
  )
}

/** @param {any} dht @param {any} options @returns {Promise<{ hash: Buffer, nodes: number }>} */
function put(dht, options) {
  return new Promise((resolve, reject) => {
    dht.put(options, (/** @type {any} */ error, /** @type {Buffer} */ hash, /** @type {number} */ nodes) =>
      error ? reject(error) : resolve({ hash, nodes }),
    )
  })
}

/** @param {any} dht @param {Buffer | string} hash @param {object} [options] @returns {Promise<any>} */
function get(dht, hash, options) {
  return new Promise((resolve, reject) => {
    const done = (/** @type {any} */ error, /** @type {any} */ res) => (error ? reject(error) : resolve(res))
    if (options) dht.get(hash, options, done)
    else dht.get(hash, done)
  })
}
