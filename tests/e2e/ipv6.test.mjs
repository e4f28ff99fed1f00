// Native peers over IPv6, by TCP and by uTP: we dial them, and they dial us.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { trial } from './testkit/lab.mjs'
import { ONLY } from './testkit/libtorrent.mjs'
import { writeSite } from './testkit/site.mjs'
import { environment, run } from './testkit/swarmgate.mjs'
import { once, within } from './testkit/wait.mjs'

const PAGE = 'tides/index.md'

for (const [name, only] of Object.entries({ TCP: ONLY.tcp, uTP: ONLY.utp })) {
  trial(`a site crosses IPv6 over ${name}, dialled from either side`, async (lab) => {
    const home = await lab.directory()
    const dir = join(home, 'tides')
    await writeSite(dir)
    const port = await freePort()
    const publisher = await lab.foreground(['publish', dir, '--json'], {
      dataDir: join(home, 'data'),
      env: { SWARMGATE__BITTORRENT__LISTEN: `[::1]:${port}` },
    })
    const { ih } = await publisher.json(60, 'published site', (line) => line.event === 'published')

    const peer = await lab.libtorrent(undefined, only, '::1')
    const into = await lab.directory()
    const finished = peer.finished(ih)
    await peer.download(ih, into)
    await peer.connect(ih, '::1', port)
    await within(60, 'download by libtorrent', finished)
    assert.deepEqual(await readFile(join(into, PAGE)), await readFile(join(home, PAGE)), 'libtorrent dialled')
    await publisher.stop()

    const target = await lab.directory()
    const link = `magnet:?xt=urn:btih:${ih}&x.pe=${encodeURIComponent(`[::1]:${peer.port}`)}`
    const got = await run(['get', link, target, '--json'], {
      env: { ...environment(target, []), SWARMGATE__BITTORRENT__LISTEN: '[::1]:0' },
    })
    assert.equal(got.code, 0, got.stderr)
    assert.deepEqual(await readFile(join(target, PAGE)), await readFile(join(home, PAGE)), '`get` dialled')
  })
}

/** A port that was free a moment ago. */
async function freePort() {
  const server = createServer().listen(0, '::1')
  await once(server, 'listening')
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address())
  await new Promise((closed) => server.close(closed))
  return port
}
