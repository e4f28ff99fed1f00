// The commands by themselves, without a server, among foreign nodes and peers.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { trial } from './testkit/lab.mjs'
import { Key, pointer, target } from './testkit/record.mjs'
import { authored } from './testkit/seeding.mjs'
import { writeSite } from './testkit/site.mjs'
import { environment, run } from './testkit/swarmgate.mjs'
import { within } from './testkit/wait.mjs'

trial('a record is put, resolved and conflicts straight in the DHT', async (lab) => {
  const dht = await lab.dht()
  const reach = ['--bootstrap', dht.first.address, '--json']
  const key = new Key()
  const salt = Buffer.from('tides')
  const v = pointer('a5'.repeat(20))

  assert.deepEqual(await resolve(), { code: 3, found: false, ih: null })
  const first = await put(key.record({ v, seq: 1, salt }))
  assert.deepEqual([first.code, first.json.ok, first.json.code], [0, true, null])
  assert.ok(first.json.stored >= 4)
  assert.equal((await (await lab.newcomer(dht)).get(target(key.public, salt), salt))?.seq, 1, 'bittorrent-dht has it')

  const second = key.record({ v, seq: 2, salt })
  assert.equal((await put(second, ['--cas', '1'])).code, 0)
  const sig = second.sig.toString('hex')
  const expected = { code: 0, found: true, seq: 2, v: v.toString('hex'), sig, ih: 'a5'.repeat(20), source: 'dht' }
  assert.deepEqual(await resolve(), expected)

  const stale = await put(key.record({ v, seq: 1, salt }))
  assert.deepEqual([stale.code, stale.json.ok, stale.json.code], [4, false, 302])
  const late = await put(key.record({ v, seq: 3, salt }), ['--cas', '1'])
  assert.deepEqual([late.code, late.json.ok, late.json.code], [4, false, 301])
  assert.deepEqual(await resolve(), expected, 'the newest record still stands')

  async function resolve() {
    const { code, json } = await run(['resolve', key.magnet, '--salt', salt.toString('hex'), ...reach])
    return { code, ...json }
  }

  /** @param {{ seq: number, sig: Buffer }} record @param {string[]} [more] */
  function put({ seq, sig }, more = []) {
    const fields = {
      key: key.hex,
      salt: salt.toString('hex'),
      seq: `${seq}`,
      v: v.toString('hex'),
      sig: sig.toString('hex'),
    }
    return run(['put', ...Object.entries(fields).flatMap(([name, value]) => [`--${name}`, value]), ...more, ...reach])
  }
})

trial('a folder goes from `publish` to `get` and stays what it was', async (lab) => {
  const dht = await lab.dht()
  const home = await lab.directory()
  const [dir, keyFile] = [join(home, 'tides'), join(home, 'site.key')]
  await writeSite(dir)
  const made = await run(['key', 'new', '--out', keyFile, '--json'])
  assert.equal(made.code, 0, made.stderr)
  assert.equal((await run(['key', 'new', '--out', keyFile])).code, 1, 'a key is never overwritten')
  const shown = await run(['key', 'show', keyFile, '--json'])
  assert.equal(shown.json.key, made.json.key)

  const publisher = await lab.foreground(['publish', dir, '--key', keyFile, '--json'], {
    dht,
    dataDir: join(home, 'data'),
  })
  const published = await publisher.json(60, 'published site', (line) => line.event === 'published')
  assert.equal(published.key, made.json.key)

  for (const link of [published.magnet, made.json.magnet, made.json.key, published.ih]) {
    const into = await lab.directory()
    const got = await run(['get', link, into, '--bootstrap', dht.first.address, '--json'], {
      env: environment(into, []),
    })
    assert.equal(got.code, 0, `${link}: ${got.stderr}`)
    assert.equal(got.json.ih, published.ih)
    for (const file of ['index.md', 'posts/spring.md', 'img/harbour.png']) {
      assert.deepEqual(await readFile(join(got.json.path, file)), await readFile(join(dir, file)), `${link}: ${file}`)
    }
  }

  const peer = await lab.libtorrent(dht)
  const into = await lab.directory()
  const finished = peer.finished(published.ih)
  await peer.download(published.ih, into)
  await within(60, 'download by libtorrent', finished)
  assert.deepEqual(await readFile(join(into, 'tides/index.md')), await readFile(join(dir, 'index.md')), 'libtorrent')
})

trial('what libtorrent seeds, `get` downloads by the key', async (lab) => {
  const { dht, dir, torrent, key } = await authored(lab)
  const into = await lab.directory()
  const got = await run(['get', key.magnet, into, '--bootstrap', dht.first.address, '--json'], {
    env: environment(into, []),
  })
  assert.equal(got.code, 0, got.stderr)
  assert.deepEqual(got.json, {
    ok: true,
    ih: torrent.info_hash,
    seq: 1,
    name: 'tides',
    bytes: torrent.size,
    path: join(into, 'tides'),
  })
  assert.deepEqual(await readFile(join(into, 'tides/img/harbour.png')), await readFile(join(dir, 'img/harbour.png')))
})
