// A site that was made without Swarmgate opens in a browser: the record is in the DHT, the files are with a libtorrent
// peer that speaks TCP only, and the reader has nothing but the link.

import assert from 'node:assert/strict'
import { trial } from './testkit/lab.mjs'
import { authored } from './testkit/seeding.mjs'
import { IMAGE } from './testkit/site.mjs'
import { eventually } from './testkit/wait.mjs'

trial('a site that only native clients know opens in a browser, with its image and its second page', async (lab) => {
  const { dht, seeder, torrent, link } = await authored(lab)
  const server = await lab.server({ dht })
  const browser = await lab.browser()
  const page = await browser.open(`${server.page}#${link}`)
  await page.getByRole('heading', { name: 'Tide tables' }).waitFor({ timeout: 60_000 })
  const picture = page.getByRole('img', { name: 'The harbour' })
  await picture.waitFor({ timeout: 60_000 })
  const width = await eventually(30, 'decoded image', () =>
    picture.evaluate((image) => /** @type {HTMLImageElement} */ (image).naturalWidth || null),
  )
  assert.equal(width, IMAGE.width)
  await browser.screenshot(page, 'foreign-site')

  await page.getByRole('link', { name: 'the spring tide' }).click()
  await page.getByRole('heading', { name: 'The spring tide' }).waitFor({ timeout: 60_000 })
  await page.goBack()
  await page.getByRole('heading', { name: 'Tide tables' }).waitFor({ timeout: 60_000 })

  const uploaded = await seeder.uploaded(torrent.info_hash)
  assert.ok(uploaded >= torrent.size && uploaded < 1.2 * torrent.size, `the seeder sent each piece once: ${uploaded}`)
})
