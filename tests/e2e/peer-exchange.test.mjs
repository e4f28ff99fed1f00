// Peer exchange (BEP 11) with libtorrent: native peers that know only the bridge find each other, and the bridge finds peers
// that a peer names. No DHT, no tracker and no local discovery helps them.

import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { trial } from './testkit/lab.mjs'
import { PinApi } from './testkit/pin_api.mjs'
import { seedInto } from './testkit/seeding.mjs'
import { environment, run } from './testkit/swarmgate.mjs'
import { eventually, within } from './testkit/wait.mjs'

/** A file's size, and a rate at which it takes more than six minutes. */
const [SIZE, SLOW] = [6 * 1024 * 1024, 16 * 1024]

/** All on one address: peers are told of others by the address that the bridge sees. */
const HERE = '127.0.0.1'

trial('two peers that know only the bridge find each other, and the seed it has', async (lab) => {
  const dht = await lab.dht()
  const server = await lab.server({ dht, env: { SWARMGATE__BRIDGE__POLICY: 'pinned' } })
  const seed = await lab.libtorrent(dht, {}, HERE)
  const { file, sha256 } = await content(lab)
  const { info_hash } = await seedInto(dht, seed, file)
  // Slow: minutes for all of it, so that nobody is done before they have met. Two seeds have no use for each other.
  await seed.limitUpload(info_hash, SLOW)
  await (await PinApi.of(server, null)).pin({ target: info_hash })
  await eventually(60, 'seed at the bridge', async () => (await seed.peers(info_hash)).length > 0 || null)

  const lonely = await Promise.all([1, 2].map(() => lab.libtorrent(undefined, { enable_dht: false }, HERE)))
  const into = await Promise.all(lonely.map(() => lab.directory()))
  const finished = lonely.map((peer) => peer.finished(info_hash))
  for (const [n, peer] of lonely.entries()) {
    await peer.download(info_hash, into[n] ?? '')
    await peer.connect(info_hash, HERE, server.bittorrent.port)
  }
  const [first, second] =
    /** @type {[import('./testkit/libtorrent.mjs').Libtorrent, import('./testkit/libtorrent.mjs').Libtorrent]} */ (
      lonely
    )
  for (const [one, other] of /** @type {const} */ ([
    [first, second],
    [first, seed],
    [second, seed],
  ])) {
    // One exchange a minute: who is told before the other has come is told of it in the next.
    await eventually(
      150,
      'connection by peer exchange',
      async () => (await named(one, other)) || (await named(other, one)) || null,
    )
  }

  await seed.limitUpload(info_hash, 0)
  await within(60, 'downloads by both', Promise.all(finished))
  for (const dir of into) assert.equal(await digest(join(dir, 'content')), sha256)
  assert.match(await server.metrics(), /bridge_peer_exchange_total\{direction="out",result="sent"\} [1-9]/)

  /** Whether `one` is connected to `other`, of whom it was told. @param {typeof seed} one @param {typeof seed} other */
  async function named(one, other) {
    return (await one.peers(info_hash)).some(({ port, pex }) => pex && port === other.port) || null
  }
})

trial('told of one peer, the bridge reaches another by peer exchange', async (lab) => {
  const [slow, seed] = await Promise.all([1, 2].map(() => lab.libtorrent(undefined, { enable_dht: false }, HERE)))
  assert(slow && seed)
  const { file, sha256, size } = await content(lab)
  const { info_hash } = await seed.seed(file)
  const finished = slow.finished(info_hash)
  await slow.download(info_hash, await lab.directory())
  // It must not be done: two seeds have no use for each other and hang up.
  await Promise.all([slow, seed].map((peer) => peer.limitUpload(info_hash, SLOW)))
  await slow.connect(info_hash, HERE, seed.port)
  await eventually(30, 'connection between the two', async () => (await slow.peers(info_hash)).length > 0 || null)

  const target = await lab.directory()
  const link = `magnet:?xt=urn:btih:${info_hash}&x.pe=${HERE}:${slow.port}`
  const getting = run(['get', link, target, '--json'], { env: environment(target, []), seconds: 90 })
  await eventually(60, 'second peer at the seed', async () => (await seed.peers(info_hash)).length > 1 || null)
  await seed.limitUpload(info_hash, 0)
  const got = await getting
  assert.equal(got.code, 0, got.stderr)
  assert.equal(await digest(join(target, 'content')), sha256)
  await within(60, 'download by the slow peer', finished)
  assert((await slow.uploaded(info_hash)) < size / 2, 'most of it came from the one that was named')
})

/** A file that nobody has. @param {import('./testkit/lab.mjs').Lab} lab */
async function content(lab) {
  const [file, bytes] = [join(await lab.directory(), 'content'), randomBytes(SIZE)]
  await writeFile(file, bytes)
  return { file, size: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') }
}

/** @param {string} file */
async function digest(file) {
  return createHash('sha256')
    .update(await readFile(file))
    .digest('hex')
}
