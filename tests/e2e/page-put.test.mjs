// A record that is signed in a page, by the library that the server offers to pages, is an ordinary record to native
// clients: they read it back byte for byte.

import assert from 'node:assert/strict'
import bencode from 'bencode'
import { trial } from './testkit/lab.mjs'
import { pointer, signable, target, verifies } from './testkit/record.mjs'

const VALUES = [
  { name: 'a pointer to a torrent', v: pointer('a5'.repeat(20)), salt: undefined },
  { name: 'a pointer under a salt', v: pointer('b5'.repeat(20)), salt: Buffer.from('tides') },
  { name: 'a text under a salt', v: Buffer.from('12:Hello World!'), salt: Buffer.from('foobar') },
]

trial('native clients read what a page has signed and put', async (lab) => {
  const dht = await lab.dht()
  const peer = await lab.libtorrent(dht)
  const server = await lab.server({ dht })
  const browser = await lab.browser()
  const page = await browser.open(server.page)

  for (const { name, v, salt = Buffer.alloc(0) } of VALUES) {
    const put = await page.evaluate(
      async ({ socket, v, salt }) => {
        const library = '/client.js'
        const { createSeed, fromHex, Gateway, importSeed, signRecord, toHex } = await import(library)
        const key = await importSeed(createSeed())
        const record = await signRecord(key, { v: fromHex(v), salt: fromHex(salt), seq: 3 })
        const { stored } = await new Gateway([socket]).put(record)
        return { key: key.publicKey, sig: toHex(record.sig), stored }
      },
      { socket: server.socket, v: v.toString('hex'), salt: salt.toString('hex') },
    )
    assert.ok(put.stored > 0, `${name}: nodes stored it`)
    const key = Buffer.from(put.key, 'hex')
    assert.ok(verifies(Buffer.from(put.sig, 'hex'), signable({ v, seq: 3, salt }), key), `${name}: the signature holds`)
    const expected = { v: v.toString('hex'), sig: put.sig, seq: 3 }

    const read = await (await lab.newcomer(dht)).get(target(key, salt), salt)
    assert.ok(read?.sig, `${name}: bittorrent-dht finds it`)
    const again = Buffer.from(bencode.encode(read.v)).toString('hex')
    assert.deepEqual({ v: again, sig: read.sig.toString('hex'), seq: read.seq }, expected, `${name}: bittorrent-dht`)
    assert.deepEqual(await peer.getMutable(key, salt), expected, `${name}: libtorrent`)
  }
})
