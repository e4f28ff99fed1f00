// Pins on a disk that fills up: what is said, what goes on being served, and what happens once there is room again.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFile, rm, statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { noise } from './testkit/content.mjs'
import { trial } from './testkit/lab.mjs'
import { PinApi } from './testkit/pin_api.mjs'
import { seedInto } from './testkit/seeding.mjs'
import { eventually } from './testkit/wait.mjs'

const MIB = 1 << 20
const SIZE = 24 * MIB

trial(
  'the disk is full at nine tenths of a download: told with a reason and the next try, and finished once there is room',
  async (lab) => {
    const dht = await lab.dht()
    const seeder = await lab.libtorrent(dht)
    const home = await lab.directory()
    const [small, large] = [join(home, 'small.bin'), join(home, 'large.bin')]
    await writeFile(small, noise(MIB, 1))
    await writeFile(large, noise(SIZE, 2))
    const [kept, wanted] = [await seedInto(dht, seeder, small, 65_536), await seedInto(dht, seeder, large, 65_536)]
    await seeder.limitUpload(wanted.info_hash, 4 * MIB)

    const dataDir = await lab.directory()
    // The server has a disk of its own, in a mount namespace of its own. Needs root.
    const disk = `mount -t tmpfs -o size=40m swarmgate "$SWARMGATE__DATA_DIR" && exec "$@"`
    const server = await lab.server({
      dht,
      dataDir,
      via: ['unshare', '--mount', 'sh', '-c', disk, 'sh'],
    })
    const inside = `/proc/${server.child.pid}/root${dataDir}`
    const ballast = join(inside, 'ballast')
    const api = await PinApi.of(server)
    const first = await api.pin({ target: kept.info_hash })
    await api.until(first.id, 60, 'first torrent', (pin) => pin.status === 'pinned')

    const { id } = await api.pin({ target: wanted.info_hash })
    const begun = await api.until(
      id,
      60,
      'first bytes',
      ({ progress }) => progress?.bytes > 0 && progress.receive_rate > 0,
    )
    const { progress } = begun
    assert.deepEqual([begun.status, progress.total_bytes, progress.peers.tcp], ['downloading', SIZE, 1])
    assert.ok(progress.pieces > 0 && progress.pieces < progress.total_pieces && progress.seconds_left >= 0)
    const { bavail, bsize } = await statfs(inside)
    const room = Math.floor(SIZE * 0.9) - begun.progress.bytes
    await writeFile(ballast, Buffer.alloc(bavail * bsize - room))

    let furthest = 0
    const failed = await api.until(id, 60, 'full disk', (pin) => {
      furthest = Math.max(furthest, (pin.progress?.bytes ?? 0) / SIZE)
      return pin.trouble?.reason === 'disk_full'
    })
    assert.ok(furthest > 0.7 && furthest < 0.95, `it was full after ${furthest} of it`)
    assert.equal(failed.status, 'failed')
    assert.match(failed.trouble.detail, /disk|space|bytes/)
    const until = Date.parse(failed.trouble.retry_at) - Date.now()
    assert.ok(until > -2_000 && until <= 15_000, `the next try is in ${until} ms`)
    assert.match(await server.metrics(), /swarmgate_pins_failures_total\{reason="disk_full"\} [1-9]/)

    // What is here is served, and what is asked is refused in words.
    const served = await fetch(`${api.base}/v1/torrents/${kept.info_hash}/small.bin`)
    assert.ok(Buffer.from(await served.arrayBuffer()).equals(await readFile(small)))
    const last = await statfs(inside)
    await writeFile(join(inside, 'last'), Buffer.alloc(last.bavail * last.bsize))
    const refused = await eventually(60, 'refusal', async () => {
      const reply = await api.ask('POST', '/v1/pins', {
        target: createHash('sha1').update(`${Math.random()}`).digest('hex'),
      })
      return reply.status === 201 ? undefined : reply
    })
    assert.deepEqual([refused.status, refused.body.type], [507, 'urn:swarmgate:problem:not-kept'])
    assert.ok(refused.headers.get('retry-after'))
    assert.match(refused.body.detail, /could not be written to disk: .*full/)
    assert.equal((await api.get(id)).trouble.reason, 'disk_full', 'it was tried again, and says so again')

    await Promise.all([rm(ballast), rm(join(inside, 'last'))])
    await api.until(id, 60, 'finished download', (pin) => pin.status === 'pinned')
    const whole = await fetch(`${api.base}/v1/torrents/${wanted.info_hash}/large.bin`)
    assert.ok(Buffer.from(await whole.arrayBuffer()).equals(await readFile(large)))
    const uploaded = await seeder.uploaded(wanted.info_hash)
    assert.ok(uploaded < 1.3 * SIZE, `what was here was not fetched again: ${uploaded} of ${SIZE}`)
    assert.equal((await api.ask('POST', '/v1/pins', { target: 'ab'.repeat(20) })).status, 201)
  },
)
