// A page that shares nothing with the publisher but a tracker of somebody else's.

import assert from 'node:assert/strict'
import { join } from 'node:path'
import { trial } from './testkit/lab.mjs'
import { writeSite } from './testkit/site.mjs'
import { eventually } from './testkit/wait.mjs'

trial('a site is read over another tracker, whoever is there first', async (lab) => {
  const dht = await lab.dht()
  const tracker = await lab.foreignTracker()

  const home = await lab.directory()
  const dir = join(home, 'tides')
  await writeSite(dir)
  const env = { SWARMGATE__BRIDGE__TRACKERS: JSON.stringify([tracker.socket]) }
  const publish = async () => {
    const publisher = await lab.foreground(['publish', dir, '--json'], { dht, dataDir: join(home, 'data'), env })
    return { publisher, published: await publisher.json(60, 'published site', (line) => line.event === 'published') }
  }

  const first = await publish()
  const { ih } = first.published
  await eventually(30, 'announce at the other tracker', () => tracker.peers(ih) === 1 || null)
  assert.deepEqual(Object.keys(tracker.tracker.torrents), [ih], 'it is told of nothing else')

  // The page's own server bridges nothing.
  const server = await lab.server({ dht, env: { SWARMGATE__BRIDGE__POLICY: 'off' } })
  const browser = await lab.browser()
  const link = `${server.page}#magnet:?xt=urn:btih:${ih}&tr=${encodeURIComponent(tracker.socket)}`
  const late = await browser.open(link)
  await late.getByRole('heading', { name: 'Tide tables' }).waitFor({ timeout: 60_000 })
  await late.context().close()
  await first.publisher.stop()
  await eventually(60, 'empty swarm at the other tracker', () => tracker.peers(ih) === 0 || null)

  // The page announces again only after two minutes: it has the site by the publisher's own offers.
  const early = await browser.open(link)
  await eventually(30, 'announce of the page', () => tracker.peers(ih) === 1 || null)
  await publish()
  await early.getByRole('heading', { name: 'Tide tables' }).waitFor({ timeout: 60_000 })
})
