// Who follows a record hears of a put within moments: the reader's page, the client library and the second client.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { WebSocket } from 'ws'
import { trial } from './testkit/lab.mjs'
import { Key, pointer } from './testkit/record.mjs'
import { Socket } from './testkit/socket.mjs'
import { once, within } from './testkit/wait.mjs'

const LIBRARY = new URL('../../web-demo/dist/client.js', import.meta.url).href
const SECOND_CLIENT = fileURLToPath(new URL('second-client', import.meta.url))

trial('a put reaches everybody who follows the record', async (lab) => {
  const server = await lab.server()
  const key = new Key()
  const socket = await Socket.open(server.socket)
  const put = async (/** @type {number} */ seq) => {
    const { k, v, sig } = key.record({ v: pointer('a5'.repeat(20)), seq })
    const record = { k: k.toString('hex'), v: v.toString('hex'), sig: sig.toString('hex'), seq }
    assert.equal((await socket.ask({ action: 'dht_put', ...record })).seq, seq)
  }
  await put(1)

  const browser = await lab.browser()
  const page = await browser.open(`${server.page}#${key.magnet}`)
  await page.locator('html[data-seq="1"]').waitFor({ timeout: 20_000 })

  const { Gateway } = await import(LIBRARY)
  const gateway = new Gateway([server.socket], { WebSocket })
  const versions = gateway.subscribe(key.hex)
  assert.equal((await versions.next()).value.seq, 1)

  const second = spawn('/usr/bin/python3', ['-B', SECOND_CLIENT, 'follow', server.socket, key.hex])
  lab.keep(second, { stop: async () => void second.kill() })
  const ended = once(second, 'close')
  const lines = createInterface({ input: second.stdout })
  const line = (/** @type {string} */ text) => once(lines, 'line', (said) => said === text)
  await within(20, 'first version in the second client', line('1'))

  const [next, said] = [versions.next(), line('2')]
  await put(2)
  assert.equal((await within(5, 'second version in the library', next)).value.seq, 2)
  await within(5, 'second version in the second client', said)
  await page.getByRole('button', { name: 'Show it' }).waitFor({ timeout: 5_000 })

  const [code] = await within(10, 'end of the second client', ended)
  assert.equal(code, 0)
  await versions.return()
  gateway.close()
  await socket.close()
})
