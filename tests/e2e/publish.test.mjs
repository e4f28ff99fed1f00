// What one instance publishes, the page of another shows; and it follows the author's next version.

import assert from 'node:assert/strict'
import { join } from 'node:path'
import { trial } from './testkit/lab.mjs'
import { writeSite } from './testkit/site.mjs'

trial('a published folder opens on another instance, and its next version replaces it', async (lab) => {
  const dht = await lab.dht()
  const home = await lab.directory()
  const dir = join(home, 'tides')
  const publish = async () => {
    const publisher = await lab.foreground(['publish', dir, '--json'], { dht, dataDir: join(home, 'data') })
    return { publisher, published: await publisher.json(60, 'published site', (line) => line.event === 'published') }
  }

  await writeSite(dir, { heading: 'Tide tables' })
  const first = await publish()
  assert.equal(first.published.seq, 1)
  assert.ok(first.published.stored > 0 && first.published.announced > 0)

  const server = await lab.server({ dht })
  const browser = await lab.browser()
  const link = `${server.page}#magnet:?xs=urn:btpk:${first.published.key}`
  const page = await browser.open(link)
  await page.getByRole('heading', { name: 'Tide tables' }).waitFor({ timeout: 60_000 })
  await first.publisher.stop()

  await writeSite(dir, { heading: 'Tide tables, corrected' })
  const second = await publish()
  assert.equal(second.published.key, first.published.key)
  assert.equal(second.published.seq, 2)
  assert.notEqual(second.published.ih, first.published.ih)

  await page.getByRole('button', { name: 'Check for update' }).click()
  await page.getByRole('button', { name: 'Show it' }).click({ timeout: 60_000 })
  await page.getByRole('heading', { name: 'Tide tables, corrected' }).waitFor({ timeout: 60_000 })
  await browser.screenshot(page, 'second-version')

  const later = await browser.open(link)
  await later.getByRole('heading', { name: 'Tide tables, corrected' }).waitFor({ timeout: 60_000 })
})
