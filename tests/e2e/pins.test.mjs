// Pins, among real clients: a site stays online while its author is away, whatever happens to the server.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { open, readFile, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import bencode from 'bencode'
import { Krpc } from './testkit/krpc.mjs'
import { trial } from './testkit/lab.mjs'
import { PinApi } from './testkit/pin_api.mjs'
import { Key, pointer, target } from './testkit/record.mjs'
import { authored, seedInto } from './testkit/seeding.mjs'
import { writeSite } from './testkit/site.mjs'
import { run, Server } from './testkit/swarmgate.mjs'
import { eventually, within } from './testkit/wait.mjs'

trial('the author publishes twice and goes away; readers get the newest version from the pin', async (lab) => {
  const dht = await lab.dht()
  const server = await lab.server({ dht })
  const home = await lab.directory()
  const [dir, keyFile] = [join(home, 'tides'), join(home, 'site.key')]
  await writeSite(dir, { heading: 'First tables' })
  const options = { dht, dataDir: join(home, 'data') }
  const publish = async () => {
    const author = await lab.foreground(['publish', dir, '--key', keyFile, '--json'], options)
    return { author, site: await author.json(60, 'published site', (line) => line.event === 'published') }
  }
  const first = await publish()
  const key = first.site.key

  const token = await run(['token', 'new', '--name', 'reader', '--server', `http://${server.ready.admin}`])
  assert.equal(token.code, 0, token.stderr)
  const as = { SWARMGATE_SERVER: `http://${server.ready.web}`, SWARMGATE_TOKEN: token.stdout.trim() }
  const command = (/** @type {string[]} */ ...args) => run([...args, '--json'], { env: as, seconds: 120 })
  const added = await command('pin', 'add', key, '--name', 'Tides', '--wait=100')
  assert.equal(added.code, 0, added.stderr + added.stdout)
  assert.deepEqual([added.json.status, added.json.current.seq], ['pinned', 1])
  await first.author.stop()

  await writeSite(dir, { heading: 'Second tables' })
  const second = await publish()
  assert.equal(second.site.seq, 2)
  const api = new PinApi(as.SWARMGATE_SERVER, as.SWARMGATE_TOKEN)
  const updated = await api.until(added.json.id, 90, 'second version', (pin) => pin.current?.seq === 2)
  assert.equal(updated.status, 'pinned')
  await second.author.stop()

  const versions = (await api.ask('GET', `/v1/pins/${added.json.id}/versions`)).body.versions
  assert.deepEqual(
    versions.map((/** @type {any} */ v) => [v.seq, v.state, v.current]),
    [
      [2, 'kept', true],
      [1, 'kept', false],
    ],
  )
  const status = await command('pin', 'status', key)
  assert.equal(status.json.record.seq, 2)
  assert.equal((await command('usage')).json.pins, 1)
  assert.equal((await command('pin', 'status', randomBytes(32).toString('hex'))).code, 3)

  // Nobody but the pin has it now.
  const browser = await lab.browser()
  const page = await browser.open(`${server.page}#${new Key().magnet.replace(/[0-9a-f]{64}/, key)}`)
  await page.getByRole('heading', { name: 'Second tables' }).waitFor({ timeout: 60_000 })
  const peer = await lab.libtorrent(dht)
  const into = await lab.directory()
  const finished = peer.finished(second.site.ih)
  await peer.download(second.site.ih, into)
  await within(60, 'download by libtorrent', finished)
  assert.deepEqual(await readFile(join(into, 'tides/index.md')), await readFile(join(dir, 'index.md')))
  const old = await fetch(`http://${server.ready.web}/v1/torrents/${first.site.ih}/index.md`)
  assert.match(await old.text(), /First tables/, 'the version before is kept')

  assert.equal((await command('pin', 'rm', key)).code, 0)
  assert.equal((await command('pin', 'status', key)).code, 3)
})

trial(
  'the author gone, the DHT holds the record for as long as the pin is there: foreign nodes, that forget and that come later',
  async (lab) => {
    const { dht, seeder, key, infoHash } = await authored(lab)
    const at = target(key.public)
    const signed = Buffer.from(dht.nodes.flatMap((node) => node.holds(at) ?? [])[0]?.sig ?? '')
    // An hour takes two seconds.
    const server = await lab.server({ dht, env: { SWARMGATE__RECORDS__REPUBLISH_EVERY: '2s' } })
    const api = await PinApi.of(server)
    const { id } = await api.pin({ target: key.hex })
    await api.until(id, 60, 'pinned site', (pin) => pin.status === 'pinned')
    await seeder.stop()
    for (let hours = 2; hours <= 6; hours += 2) {
      for (const node of dht.nodes) node.forget()
      const holders = await eventually(20, `copies after ${hours} hours`, () => {
        const holders = dht.nodes.flatMap((node) => node.holds(at) ?? [])
        return holders.length >= dht.nodes.length - 2 ? holders : undefined
      })
      assert.ok(
        holders.every(({ seq, sig }) => seq === 1 && signed.equals(sig)),
        'as the author signed it',
      )
    }
    const { record } = await api.until(id, 20, 'count of holders', (pin) => pin.record.holders >= 6)
    assert.ok(Date.parse(record.last_put) <= Date.now() && Date.parse(record.next_put) >= Date.parse(record.last_put))

    // Nodes of another kind, which never heard of the author; then those that did hear, and the server, go away.
    const later = await Promise.all(Array.from({ length: 4 }, () => lab.libtorrent()))
    await Promise.all(later.map((node) => node.joinDht([...later.filter((other) => other !== node), server.dht])))
    await dht.stop()
    const since = Date.now() + 1_000 // the API's moments are whole seconds
    await api.until(
      id,
      30,
      'copies with those who came later',
      ({ record }) => Date.parse(record.last_put) > since && record.holders >= 3 && record.holders <= later.length,
    )
    await server.stop()
    // Each is asked by itself: a lookup of theirs would wait for those who are gone.
    const answers = await Promise.all(
      later.map(async (node) => {
        const krpc = await Krpc.open(node)
        lab.keep(krpc, { stop: async () => krpc.close() })
        return (await krpc.query('get', { target: at })).r
      }),
    )
    const copies = answers.filter(({ seq, sig, v }) => {
      return seq === 1 && signed.equals(sig) && pointer(infoHash).equals(bencode.encode(v))
    })
    assert.ok(copies.length >= 3, `${copies.length} of ${later.length} libtorrent nodes hold what the author signed`)
  },
)

trial('killed at ten moments, it loses nothing that it acknowledged', async (lab) => {
  const seed = Number(process.env['KILL_SEED'] ?? 6)
  const chance = random(seed)
  lab.note(`KILL_SEED=${seed}`)
  const dht = await lab.dht()
  const dataDir = await lab.directory()
  const seeder = await lab.libtorrent(dht)
  /** @type {string[]} */
  const real = []
  for (const heading of ['One', 'Two', 'Three']) {
    const dir = join(await lab.directory(), heading)
    await writeSite(dir, { heading })
    const torrent = await seedInto(dht, seeder, dir)
    real.push(torrent.info_hash)
  }
  /** @type {Map<string, { name: string, gone: boolean }>} */
  const acknowledged = new Map()
  let token
  for (let round = 0; round < 10; round++) {
    const server = await Server.start({ dataDir, bootstrap: [dht.first.address] })
    const operator = await PinApi.of(server, null)
    token ??= (await operator.ask('POST', '/v1/tokens', {})).body.token
    const api = new PinApi(`http://${server.ready.web}`, token)
    const ids = new Map((await api.all()).map((pin) => [pin.id, pin.name]))
    for (const [id, { name, gone }] of acknowledged) {
      assert.equal(ids.get(id), gone ? undefined : name, `round ${round}: pin ${id}`)
    }
    let ended = false
    const death = pause(chance() * 600).then(() => {
      ended = true
      server.child.kill('SIGKILL')
      return server.exit
    })
    const burst = async (/** @type {number} */ n) => {
      while (!ended) {
        const name = `round ${round} ${n} ${randomBytes(4).toString('hex')}`
        const target = round < real.length && n === 0 ? real[round] : randomBytes(20).toString('hex')
        try {
          const pin = await api.pin({ target, name, ...(target === real[round] && { priority: 5 }) })
          acknowledged.set(pin.id, { name: pin.name, gone: false })
          acknowledged.delete(pin.id) // until the change is answered, it has the one name or the other
          const changed = await api.ask('PATCH', `/v1/pins/${pin.id}`, { name: `${name} again` })
          assert.equal(changed.status, 200)
          acknowledged.set(pin.id, { name: `${name} again`, gone: false })
          if (target !== real[round] && chance() < 0.5) {
            acknowledged.delete(pin.id) // until it is answered, it may be gone or not
            const { status } = await api.ask('DELETE', `/v1/pins/${pin.id}`)
            assert.equal(status, 204)
            acknowledged.set(pin.id, { name: '', gone: true })
          }
        } catch (error) {
          if (!ended) throw error
        }
      }
    }
    await Promise.all([death, ...Array.from({ length: 4 }, (_, n) => burst(n))])
  }
  const server = await lab.server({ dht, dataDir })
  const api = new PinApi(`http://${server.ready.web}`, token)
  const pins = await api.all()
  lab.note(`${acknowledged.size} acknowledged, ${pins.length} pins`)
  for (const infoHash of real) {
    const pin = pins.find((pin) => pin.target.info_hash === infoHash)
    if (!pin) continue // its round was killed before it was acknowledged
    await api.until(pin.id, 90, 'pinned torrent', (pin) => pin.status === 'pinned')
  }
})

trial('torrents that nobody has do not hold up one that somebody has', async (lab) => {
  const dht = await lab.dht()
  const seeder = await lab.libtorrent(dht)
  const dir = join(await lab.directory(), 'tides')
  await writeSite(dir)
  const torrent = await seedInto(dht, seeder, dir)
  const server = await lab.server({ dht })
  const api = await PinApi.of(server)
  for (let n = 0; n < 24; n++) await api.pin({ target: randomBytes(20).toString('hex') })
  const { id } = await api.pin({ target: torrent.info_hash })
  await api.until(id, 60, 'pinned torrent', (pin) => pin.status === 'pinned')
})

trial('a flipped byte on disk is found, told, and repaired from the swarm', async (lab) => {
  const dht = await lab.dht()
  const seeder = await lab.libtorrent(dht)
  const dir = join(await lab.directory(), 'tides')
  await writeSite(dir)
  const torrent = await seedInto(dht, seeder, dir)
  const dataDir = await lab.directory()
  const server = await lab.server({ dht, dataDir })
  const api = await PinApi.of(server)
  const { id } = await api.pin({ target: torrent.info_hash })
  await api.until(id, 60, 'pinned torrent', (pin) => pin.status === 'pinned')

  const stream = await fetch(`${api.base}/v1/events`, { headers: { authorization: `Bearer ${api.token}` } })
  const events = stream.body?.pipeThrough(new TextDecoderStream()).getReader()
  const path = join(dataDir, 'pinned', torrent.info_hash, 'files', 'img', 'harbour.png')
  const whole = await readFile(path)
  const flip = async () => {
    const file = await open(path, 'r+')
    await file.write(Buffer.from([(whole[70_000] ?? 0) ^ 1]), 0, 1, 70_000)
    await file.close()
  }
  await flip()
  assert.ok(!(await readFile(path)).equals(whole))
  assert.equal((await api.ask('POST', `/v1/pins/${id}/verify`)).status, 202)

  let heard = ''
  const told = (async () => {
    while (!/"reason":"damaged"/.test(heard)) heard += (await events?.read())?.value ?? ''
  })()
  await within(30, 'event that tells of the damage', told)
  await api.until(id, 60, 'repaired torrent', (pin) => pin.status === 'pinned')
  assert.ok((await readFile(path)).equals(whole), 'the file is whole again')
  await events?.cancel()
  assert.match(await server.metrics(), /swarmgate_pins_pieces_verified_total\{result="damaged"\} [1-9]/)
  await server.stop()

  // And without being asked to look.
  const often = await lab.server({ dht, dataDir, env: { SWARMGATE__PINS__VERIFY_EVERY: '2s' } })
  const again = new PinApi(`http://${often.ready.web}`, api.token)
  await again.until(id, 60, 'pinned torrent', (pin) => pin.status === 'pinned')
  await flip()
  await eventually(60, 'damage found', async () =>
    /result="damaged"\} [1-9]/.test(await often.metrics()) ? true : undefined,
  )
  await again.until(id, 60, 'repaired torrent', (pin) => pin.status === 'pinned')
  assert.ok((await readFile(path)).equals(whole), 'whole again')
})

trial('quotas: the old version stays, and says why, until there is room', async (lab) => {
  const dht = await lab.dht()
  const server = await lab.server({ dht })
  const seeder = await lab.libtorrent(dht)
  const key = new Key()
  const version = async (/** @type {number} */ seq, /** @type {number} */ bytes) => {
    const dir = join(await lab.directory(), 'tides')
    await writeSite(dir, { heading: `Tables ${seq}` })
    await writeFile(join(dir, 'extra.bin'), randomBytes(bytes))
    const torrent = await seedInto(dht, seeder, dir)
    await dht.last.put(key, { v: { ih: Buffer.from(torrent.info_hash, 'hex') }, seq })
    return torrent
  }
  await version(1, 10)
  const [a, b] = [
    await PinApi.of(server, { name: 'a', limits: { bytes: 1_000_000, pins: 2, pin_bytes: 900_000 } }),
    await PinApi.of(server, { name: 'b' }),
  ]
  const { id } = await a.pin({ target: key.hex, keep: { versions: 0 } })
  await a.until(id, 60, 'pinned site', (pin) => pin.status === 'pinned')
  await version(2, 950_000)
  const refused = await a.until(id, 90, 'refusal', (pin) => pin.trouble?.reason === 'too_large')
  assert.deepEqual([refused.status, refused.current.seq, refused.wanted.seq], ['degraded', 1, 2])
  const page = await fetch(`${a.base}/v1/sites/${key.hex}/index.md`)
  assert.match(await page.text(), /Tables 1/, 'what there is, is served')

  const other = await b.pin({ target: key.hex })
  await b.until(other.id, 90, 'pinned site of the other', (pin) => pin.status === 'pinned' && pin.current.seq === 2)
  assert.deepEqual(
    (await a.all()).map((pin) => pin.id),
    [id],
  )
  assert.equal((await a.ask('GET', `/v1/pins/${other.id}`)).status, 404)
  assert.equal((await a.ask('DELETE', `/v1/pins/${other.id}`)).status, 404)
  assert.equal((await a.ask('GET', `/v1/pins?token=${a.token}`)).status, 400)
  await version(3, 100)
  const served = await a.until(id, 90, 'third version', (pin) => pin.current.seq === 3)
  assert.equal(served.status, 'pinned')
  assert.ok((await a.ask('GET', '/v1/usage')).body.bytes < 400_000)
  assert.equal((await a.pin({ target: randomBytes(20).toString('hex') })).status !== undefined, true)
  const third = await a.ask('POST', '/v1/pins', { target: randomBytes(20).toString('hex') })
  assert.deepEqual([third.status, third.body.type], [403, 'urn:swarmgate:problem:over-quota'])
})

trial('a backup is made while the server runs, and another server starts from it', async (lab) => {
  const dataDir = await lab.directory()
  const server = await lab.server({ dataDir })
  const api = await PinApi.of(server)
  const pin = await api.pin({ target: randomBytes(20).toString('hex'), name: 'kept', meta: { k: 'v' } })
  const denied = (/** @type {{ ready: any }} */ of) => `http://${of.ready.admin}/v1/tracker/denied/${'ab'.repeat(20)}`
  assert.equal((await fetch(denied(server), { method: 'PUT' })).status, 204)
  const copy = join(await lab.directory(), 'backup')
  const env = { SWARMGATE__DATA_DIR: dataDir }
  const made = await run(['backup', copy, '--json'], { env })
  assert.equal(made.code, 0, made.stderr)
  assert.ok((await readdir(copy)).includes('pins.sqlite'))
  assert.equal((await run(['backup', copy], { env })).code, 2, 'a backup overwrites nothing')
  assert.equal((await run(['restore', copy], { env })).code, 1, 'not under a running server')
  const fresh = await lab.directory()
  const restored = await run(['restore', copy, '--json'], { env: { SWARMGATE__DATA_DIR: fresh } })
  assert.equal(restored.code, 0, restored.stderr)
  const other = await lab.server({ dataDir: fresh })
  const there = new PinApi(`http://${other.ready.web}`, api.token)
  assert.deepEqual([(await there.get(pin.id)).name, (await there.get(pin.id)).meta], ['kept', { k: 'v' }])
  assert.equal((await fetch(denied(other))).status, 200, 'what was denied stays denied')
})

trial('events go on where they stopped, also over a restart', async (lab) => {
  const dataDir = await lab.directory()
  const server = await lab.server({ dataDir })
  const api = await PinApi.of(server)
  const listen = async (
    /** @type {string} */ base,
    /** @type {string | undefined} */ from,
    /** @type {RegExp} */ until,
  ) => {
    const stop = new AbortController()
    const headers = { authorization: `Bearer ${api.token}`, ...(from && { 'last-event-id': from }) }
    const stream = await fetch(`${base}/v1/events`, { headers, signal: stop.signal })
    assert.equal(stream.headers.get('content-type'), 'text/event-stream')
    const reader = stream.body?.pipeThrough(new TextDecoderStream()).getReader()
    let heard = ''
    const told = (async () => {
      while (!until.test(heard)) heard += (await reader?.read())?.value ?? ''
    })()
    await within(20, `event ${until}`, told)
    stop.abort()
    return heard
  }
  const first = listen(api.base, '0', /event: created/)
  const pin = await api.pin({ target: randomBytes(20).toString('hex') })
  const number = /id: (\d+)\nevent: created/.exec(await first)?.[1]
  assert.ok(number)
  await api.ask('PATCH', `/v1/pins/${pin.id}`, { name: 'missed' })
  await server.stop()
  const again = await lab.server({ dataDir })
  const heard = await listen(`http://${again.ready.web}`, number, /event: changed/)
  assert.ok(!heard.includes('event: created'), heard)
})

/** Numbers from 0 to 1 that are the same for the same seed (mulberry32). @param {number} seed */
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}
