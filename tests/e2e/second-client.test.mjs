// A second implementation of the DHT proxy's client side, in Python and written from the specification alone: it agrees
// with the vectors, holds the whole conversation with the server, and native nodes read what it put.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import bencode from 'bencode'
import { trial } from './testkit/lab.mjs'
import { target } from './testkit/record.mjs'

const PYTHON = '/usr/bin/python3'
const CLIENT = fileURLToPath(new URL('second-client', import.meta.url))
const VECTORS = fileURLToPath(new URL('../../spec/vectors', import.meta.url))

/** @param {string[]} args @returns {Promise<any>} */
async function secondClient(...args) {
  // -B: no compiled files beside the sources.
  const { stdout } = await promisify(execFile)(PYTHON, ['-B', CLIENT, ...args], { timeout: 60_000 })
  return JSON.parse(stdout)
}

test('the second client agrees with every vector', async () => {
  const { cases, wrong } = await secondClient('vectors', VECTORS)
  assert.deepEqual(wrong, [])
  assert.ok(cases > 90)
})

trial('the second client gets and puts, and is refused with the right codes', async (lab) => {
  const dht = await lab.dht()
  const server = await lab.server({ dht })
  const { put } = await secondClient('talk', server.socket, randomBytes(32).toString('hex'))
  for (const { k, salt = '', seq, v, sig } of put) {
    const [key, bytes] = [Buffer.from(k, 'hex'), Buffer.from(salt, 'hex')]
    const read = await dht.last.get(target(key, bytes), bytes)
    assert.ok(read?.sig, 'bittorrent-dht finds it')
    const again = Buffer.from(bencode.encode(read.v)).toString('hex')
    assert.deepEqual({ seq: read.seq, v: again, sig: read.sig.toString('hex') }, { seq, v, sig })
  }
})
