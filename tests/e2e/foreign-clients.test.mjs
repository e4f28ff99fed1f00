// The foreign clients alone: what the other tests take for granted about them.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Key, pointer, target } from './testkit/record.mjs'
import { seedInto } from './testkit/seeding.mjs'
import { writeSite } from './testkit/site.mjs'
import { trial } from './testkit/lab.mjs'
import { within } from './testkit/wait.mjs'

trial('libtorrent and bittorrent-dht read a record that bittorrent-dht put', async (lab) => {
  const dht = await lab.dht()
  const peer = await lab.libtorrent(dht)
  for (const salt of [undefined, Buffer.from('tides')]) {
    const key = new Key()
    const v = pointer('ab'.repeat(20))
    const stored = await dht.last.put(key, { v: { ih: Buffer.alloc(20, 0xab) }, seq: 7, salt })
    assert.ok(stored > 0)

    const read = await dht.first.get(target(key.public, salt), salt)
    assert.equal(read?.seq, 7)
    assert.equal(Buffer.from(read?.v.ih).toString('hex'), 'ab'.repeat(20))
    const { sig } = key.record({ v, seq: 7, salt })
    const found = await peer.getMutable(key.public, salt)
    assert.deepEqual(found, { v: v.toString('hex'), seq: 7, sig: sig.toString('hex') })
  }
})

trial('libtorrent downloads from libtorrent, found through the DHT', async (lab) => {
  const dht = await lab.dht()
  const [seeder, leecher] = await Promise.all([lab.libtorrent(dht), lab.libtorrent(dht)])
  const dir = join(await lab.directory(), 'site')
  await writeSite(dir)
  const torrent = await seedInto(dht, seeder, dir)
  assert.ok(torrent.pieces > 4)

  const into = await lab.directory()
  const finished = leecher.finished(torrent.info_hash)
  await leecher.download(torrent.info_hash, into)
  await within(60, 'finished download', finished)
  assert.deepEqual(await readFile(join(into, 'site/img/harbour.png')), await readFile(join(dir, 'img/harbour.png')))
})
