// Mistakes of the person at the keyboard: each gets one clear sentence and its exit code.

import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { createSocket } from 'node:dgram'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { trial } from './testkit/lab.mjs'
import { serves } from './testkit/canary.mjs'
import { Key } from './testkit/record.mjs'
import { environment, run } from './testkit/swarmgate.mjs'
import { once } from './testkit/wait.mjs'

const [FAILED, USAGE, NOT_FOUND] = [1, 2, 3]

trial('a configuration that cannot be used is explained', async (lab) => {
  const dir = await lab.directory()
  const file = join(dir, 'swarmgate.toml')
  const mistakes = [
    { toml: '[web]\nlissten = "127.0.0.1:0"\n', says: /swarmgate\.toml, line 2.*lissten/ },
    { toml: '[webb]\n', says: /webb/ },
    { toml: '[web]\nlisten = "nowhere"\n', says: /line 2.*(address|nowhere)/ },
    { toml: '[bridge]\npolicy = "maybe"\n', says: /maybe/ },
    { toml: 'not toml', says: /line 1/ },
  ]
  for (const { toml, says } of mistakes) {
    await writeFile(file, toml)
    for (const command of [['serve'], ['config', 'check'], ['config', 'print']]) {
      complains(await run([...command, '--config', file]), USAGE, says)
    }
  }
  complains(await run(['serve', '--config', join(dir, 'missing.toml')]), USAGE, /missing\.toml/)
  complains(await run(['serve'], { env: { SWARMGATE__WEB__LISSTEN: '127.0.0.1:0' } }), USAGE, /SWARMGATE__WEB__LISSTEN/)
  complains(await run(['serve'], { env: { SWARMGATE__DHT__BOOTSTRAP: '["x"' } }), USAGE, /SWARMGATE__DHT__BOOTSTRAP/)
  complains(await run(['serve', '--set', 'web.port=80']), USAGE, /web\.port|port/)
})

trial('a port in use is named', async (lab) => {
  const tcp = createServer().listen(0, '127.0.0.1')
  await once(tcp, 'listening')
  lab.keep(tcp, { stop: async () => tcp.close() })
  const udp = createSocket('udp4').bind(0, '127.0.0.1')
  await once(udp, 'listening')
  lab.keep(udp, { stop: async () => udp.close() })
  const taken = {
    tcp: `127.0.0.1:${/** @type {import('node:net').AddressInfo} */ (tcp.address()).port}`,
    udp: `127.0.0.1:${udp.address().port}`,
  }
  const listeners = [
    ['WEB__LISTEN', taken.tcp],
    ['ADMIN__LISTEN', taken.tcp],
    ['BITTORRENT__LISTEN', taken.tcp],
    ['TRACKER__UDP_LISTEN', taken.udp],
    ['DHT__LISTEN', taken.udp],
    ['WEBRTC__LISTEN', taken.udp],
    ['WEBRTC__STUN_LISTEN', taken.udp],
  ]
  for (const [name, address = ''] of listeners) {
    const env = { ...environment(await lab.directory(), []), [`SWARMGATE__${name}`]: address }
    complains(await run(['serve'], { env }), FAILED, new RegExp(`${address.replaceAll('.', '\\.')}.*in use`))
  }
})

trial('a data directory that cannot be used is named', async (lab) => {
  for (const dir of ['/dev/null/data', '/proc/data']) {
    complains(await run(['serve'], { env: environment(dir, []) }), FAILED, new RegExp(`data directory ${dir}`))
  }
  const dataDir = await lab.directory()
  const server = await lab.server({ dataDir })
  complains(await run(['serve'], { env: environment(dataDir, []) }), FAILED, /data directory.*another/)
  await serves(server, 'a second server on its data directory')
})

trial('links and keys that are none are told apart from unknown ones', async (lab) => {
  const server = await lab.server()
  const reach = ['--server', `http://${server.ready.web}`]
  const key = new Key()
  for (const text of [
    'magnet:?',
    'magnet:?xt=urn:nonsense:5',
    `magnet:?xs=urn:btpk:${'5a'.repeat(31)}`,
    'nonsense',
    '',
  ]) {
    complains(await run(['resolve', text, ...reach]), USAGE)
    complains(await run(['get', text, await lab.directory(), ...reach]), USAGE)
  }
  for (const bytes of [19, 21]) {
    complains(await run(['get', `magnet:?xt=urn:btih:${'5a'.repeat(bytes)}`, ...reach]), USAGE)
    complains(await run(['get', '5a'.repeat(bytes), ...reach]), USAGE)
  }
  complains(await run(['resolve', key.hex, '--salt', '5a'.repeat(65), ...reach]), USAGE, /salt/)
  complains(await run(['resolve', key.hex, ...reach]), NOT_FOUND, new RegExp(key.hex))
  const json = await run(['resolve', key.hex, ...reach, '--json'])
  assert.deepEqual([json.code, json.json.found], [NOT_FOUND, false])
  complains(await run(['resolve', key.hex, '--server', 'http://127.0.0.1:9']), FAILED, /127\.0\.0\.1:9.*refused/i)
  complains(await run(['publish', join(await lab.directory(), 'missing')]), FAILED, /missing/)
  complains(await run(['nonsense']), USAGE)
  complains(await run([]), USAGE)
  await serves(server, 'nonsense on the command line')
})

trial('the page explains a link that is none and a key that nobody uses', async (lab) => {
  const server = await lab.server()
  const browser = await lab.browser()
  for (const link of ['magnet:?xt=urn:nonsense:5', `magnet:?xs=urn:btpk:${'5a'.repeat(31)}`, 'nonsense']) {
    const page = await browser.open(`${server.page}#${link}`)
    await page.getByText('This link cannot be opened').waitFor({ timeout: 60_000 })
  }
  const unknown = await browser.open(`${server.page}#${new Key().magnet}`)
  await unknown.getByText('Nothing is published under this key').waitFor({ timeout: 60_000 })
})

/**
 * The command ended with the code, said nothing on standard output and one sentence on standard error.
 * @param {import('./testkit/swarmgate.mjs').Outcome} outcome
 * @param {number} expected
 * @param {RegExp} [says]
 */
function complains({ code, stdout, stderr }, expected, says = /./) {
  assert.equal(code, expected, `${stdout}${stderr}`)
  assert.equal(stdout, '')
  const sentences = stderr.split('\n').filter((line) => line.startsWith('error: '))
  if (expected === USAGE && sentences.length === 0) return assert.match(stderr, /^Usage: /m)
  assert.equal(sentences.length, 1, stderr)
  assert.match(String(sentences[0]), says)
  assert.doesNotMatch(stderr, /panicked|backtrace/i)
}
