// Three hosts on one wire: no internet, no DHT. What one publishes the others have, and show.

import assert from 'node:assert/strict'
import { join } from 'node:path'
import { EXECUTABLE } from './testkit/chromium.mjs'
import { trial } from './testkit/lab.mjs'
import { Network } from './testkit/network.mjs'
import { writeSite } from './testkit/site.mjs'
import { eventually } from './testkit/wait.mjs'

trial('a network with no internet and no DHT still updates', async (lab) => {
  const { key, readers, reader, home } = await updates(lab, { ipv4: true })
  const browser = await lab.browser(await reader.wrapper(EXECUTABLE, home))
  const page = await browser.open(`${readers[0]?.server.page}#magnet:?xs=urn:btpk:${key}`)
  await page.getByRole('heading', { name: 'Tide tables, corrected' }).waitFor({ timeout: 60_000 })
})

trial('so does one with nothing but IPv6 link-local addresses', async (lab) => {
  const { key, readers } = await updates(lab, { ipv4: false })
  for (const { host, server } of readers) {
    const record = await host.json(`http://${server.ready.web}/v1/records/${key}?max_age=3600`)
    assert.equal(record.seq, 2)
  }
})

/**
 * Three hosts; one publishes, the others ask for it once and then have its next version.
 * @param {import('./testkit/lab.mjs').Lab} lab @param {{ ipv4: boolean }} options
 */
async function updates(lab, { ipv4 }) {
  const network = await Network.start(['author', 'reader', 'other'], { ipv4 })
  lab.keep(network, network)
  const [author, reader, other] = ['author', 'reader', 'other'].map((name) => network.host(name))
  assert.ok(author && reader && other)

  const home = await lab.directory()
  const dir = join(home, 'tides')
  const publish = async () => {
    const dataDir = join(home, 'data')
    const publisher = await lab.foreground(['publish', dir, '--json'], { dataDir, env: author.env, via: author.via })
    const published = await publisher.json(60, 'published site', (line) => line.event === 'published')
    return { publisher, published, at: Date.now() }
  }
  const readers = await Promise.all(
    [reader, other].map(async (host) => ({ host, server: await lab.server({ env: host.env, via: host.via }) })),
  )
  /** Seconds until both servers have this version. @param {string} key @param {number} seq @param {number} since */
  const arrival = (key, seq, since) =>
    Promise.all(
      readers.map(({ host, server }) =>
        eventually(30, `version ${seq} on ${host.namespace}`, async () => {
          const record = await host.json(`http://${server.ready.web}/v1/records/${key}?max_age=3600`)
          return record.seq === seq ? (Date.now() - since) / 1000 : undefined
        }),
      ),
    )

  await writeSite(dir, { heading: 'Tide tables' })
  const first = await publish()
  assert.equal(first.published.stored, 0, 'there is no DHT')
  const asked = await arrival(first.published.key, 1, first.at)
  await first.publisher.stop()

  await writeSite(dir, { heading: 'Tide tables, corrected' })
  const second = await publish()
  assert.equal(second.published.seq, 2)
  const followed = await arrival(first.published.key, 2, second.at)
  console.log(
    `seconds until two hosts have a record over ${ipv4 ? 'IPv4' : 'IPv6'}: asked for ${asked.join(' and ')}, followed ${followed.join(' and ')}`,
  )

  return { key: first.published.key, readers, reader, home }
}
