// Native peers that can be reached by one way only: over uTP, encrypted, or both. Both directions: `get` goes to what
// they seed, and they come to what is published here.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { trial } from './testkit/lab.mjs'
import { ONLY } from './testkit/libtorrent.mjs'
import { seedInto } from './testkit/seeding.mjs'
import { writeSite } from './testkit/site.mjs'
import { environment, run } from './testkit/swarmgate.mjs'
import { within } from './testkit/wait.mjs'

/** @type {Record<string, { theirs: Record<string, unknown>, ours?: string }>} */
const WAYS = {
  'uTP only': { theirs: ONLY.utp },
  'RC4 only': { theirs: ONLY.encrypted },
  'an encrypted handshake only': { theirs: ONLY.hidden },
  'uTP and RC4 only': { theirs: { ...ONLY.utp, ...ONLY.encrypted } },
  'RC4 only, as we do': { theirs: ONLY.encrypted, ours: 'require' },
}

trial('libtorrent is downloaded from, and downloads from us, whatever it takes only', async (lab) => {
  const dht = await lab.dht()
  const tried = Object.entries(WAYS).map(async ([name, { theirs, ours = 'allow' }]) => {
    const peer = await lab.libtorrent(dht, theirs)
    const home = await lab.directory()
    const env = { SWARMGATE__BITTORRENT__ENCRYPTION: ours }

    const seeded = join(home, 'seeded', 'tables')
    await writeSite(seeded, { heading: `Seeded by ${name}` })
    const { info_hash } = await seedInto(dht, peer, seeded)
    const target = await lab.directory()
    const got = await run(['get', info_hash, target, '--bootstrap', dht.first.address, '--json'], {
      env: { ...environment(target, []), ...env },
    })
    assert.equal(got.code, 0, `${name}: ${got.stderr}`)
    assert.deepEqual(await site(got.json.path), await site(seeded), `${name}: what \`get\` downloaded`)

    const published = join(home, 'tides')
    await writeSite(published, { heading: `Published for ${name}` })
    const publisher = await lab.foreground(['publish', published, '--json'], { dht, dataDir: join(home, 'data'), env })
    const { ih } = await publisher.json(60, 'published site', (line) => line.event === 'published')
    const into = await lab.directory()
    const finished = peer.finished(ih)
    await peer.download(ih, into)
    await within(60, `download by libtorrent that takes ${name}`, finished)
    assert.deepEqual(await site(join(into, 'tides')), await site(published), `${name}: what libtorrent downloaded`)
  })
  await Promise.all(tried)
})

/** Its files. @param {string} dir */
function site(dir) {
  return Promise.all(['index.md', 'posts/spring.md', 'img/harbour.png'].map((file) => readFile(join(dir, file))))
}
