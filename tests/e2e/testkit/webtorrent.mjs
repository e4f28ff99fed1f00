// Stock WebTorrent in a page, as any site on the web would run it.

import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { Server as Tracker } from 'bittorrent-tracker'
import { noise, PIECE } from './content.mjs'
import { once, within } from './wait.mjs'

const BUNDLE = createRequire(import.meta.url).resolve('webtorrent/dist/webtorrent.min.js')

/** @typedef {import('playwright-core').Page} Page */

/** A web site of its own: an empty page and the WebTorrent bundle. */
export class WebTorrentSite {
  static async start(host = '127.0.0.1') {
    const bundle = await readFile(BUNDLE)
    const server = createServer((request, response) => {
      const script = request.url === '/webtorrent.js'
      response.setHeader('content-type', script ? 'text/javascript' : 'text/html')
      response.end(script ? bundle : '<!doctype html><title>WebTorrent</title>')
    })
    server.listen(0, host)
    await within(5, 'web site', once(server, 'listening'))
    return new WebTorrentSite(server)
  }

  /** @param {import('node:http').Server} server */
  constructor(server) {
    this.server = server
  }

  get origin() {
    const { address, port } = /** @type {import('node:net').AddressInfo} */ (this.server.address())
    return `http://${address}:${port}`
  }

  /**
   * A page with `window.client`, a WebTorrent client.
   * @param {import('./chromium.mjs').Browser} browser
   * @returns {Promise<Page>}
   */
  async open(browser) {
    const page = await browser.open(`${this.origin}/`)
    await page.evaluate(async () => {
      const bundle = '/webtorrent.js'
      const { default: WebTorrent } = await import(bundle)
      Object.assign(window, { client: new WebTorrent() })
    })
    return page
  }

  async stop() {
    this.server.closeAllConnections()
    this.server.close()
  }
}

/**
 * Seeds one file, the text so many times over; resolves with its magnet link when the tracker has answered.
 * @param {Page} page
 * @param {{ name: string, text: string, times?: number, tracker: string }} file
 * @returns {Promise<string>}
 */
export function seed(page, file) {
  return page.evaluate(async ({ name, text, times = 1, tracker }) => {
    const { client } = /** @type {any} */ (window)
    const failed = new Promise((_, reject) => client.on('error', reject))
    const torrent = client.seed(new File(Array(times).fill(text), name), { announce: [tracker] })
    const happened = ['seed', 'trackerAnnounce'].map((event) => new Promise((resolve) => torrent.once(event, resolve)))
    await Promise.race([Promise.all(happened), failed])
    return torrent.magnetURI
  }, file)
}

/**
 * Seeds one file of noise; resolves with the torrent's info hash when the tracker has answered.
 * @param {Page} page
 * @param {{ name: string, size: number, seed: number, tracker: string }} file
 * @returns {Promise<string>}
 */
export function seedNoise(page, file) {
  return page.evaluate(
    async ({ name, size, seed, tracker, source, pieceLength }) => {
      const { client } = /** @type {any} */ (window)
      const make = new Function(`return ${source}`)()
      const failed = new Promise((_, reject) => client.on('error', reject))
      const torrent = client.seed(new File([make(size, seed)], name), { announce: [tracker], pieceLength })
      const happened = ['seed', 'trackerAnnounce'].map(
        (event) => new Promise((resolve) => torrent.once(event, resolve)),
      )
      await Promise.race([Promise.all(happened), failed])
      return torrent.infoHash
    },
    { ...file, source: noise.toString(), pieceLength: PIECE },
  )
}

/** Bytes of content that a page has sent. @param {Page} page @returns {Promise<number>} */
export function sent(page) {
  return page.evaluate(() => /** @type {any} */ (window).client.torrents[0].uploaded)
}

/** Bytes of content that a page has. @param {Page} page @returns {Promise<number>} */
export function received(page) {
  return page.evaluate(() => /** @type {any} */ (window).client.torrents[0].downloaded)
}

/**
 * Downloads a torrent of one file; resolves with its size and the SHA-256 of its content.
 * @param {Page} page
 * @param {string} magnet
 * @param {object} [announcing]  what its announces are to have beside the usual
 * @returns {Promise<{ size: number, sha256: string }>}
 */
export function download(page, magnet, announcing = {}) {
  return page.evaluate(
    async ({ magnet, announcing }) => {
      const { client } = /** @type {any} */ (window)
      const failed = new Promise((_, reject) => client.on('error', reject))
      const torrent = client.add(magnet, { getAnnounceOpts: () => announcing })
      await Promise.race([new Promise((resolve) => torrent.once('done', resolve)), failed])
      const content = await (await torrent.files[0].blob()).arrayBuffer()
      const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', content))
      return {
        size: content.byteLength,
        sha256: [...digest].map((byte) => byte.toString(16).padStart(2, '0')).join(''),
      }
    },
    { magnet, announcing },
  )
}

/**
 * Downloads in a page: seconds until the first peer, and from then until everything is there.
 * @param {Page} page @param {string} link @returns {Promise<{ first: number, transfer: number }>}
 */
export function timed(page, link) {
  return page.evaluate(async (link) => {
    const { client } = /** @type {any} */ (window)
    const begun = performance.now()
    const torrent = client.add(link)
    await new Promise((resolve) => torrent.once('wire', resolve))
    const met = performance.now()
    await new Promise((resolve) => torrent.once('done', resolve))
    return { first: (met - begun) / 1000, transfer: (performance.now() - met) / 1000 }
  }, link)
}

/** A tracker that introduces pages to each other and to nobody else. */
export class ForeignTracker {
  static async start(host = '127.0.0.1') {
    const tracker = new Tracker({ udp: false, http: true, ws: true, stats: false })
    await within(10, 'tracker', new Promise((resolve) => tracker.listen(0, host, () => resolve(undefined))))
    return new ForeignTracker(tracker)
  }

  /** @param {any} tracker */
  constructor(tracker) {
    this.tracker = tracker
    const { address, port } = tracker.http.address()
    this.socket = `ws://${address}:${port}/`
  }

  /** How many announce the torrent. @param {string} infoHash @returns {number} */
  peers(infoHash) {
    return this.tracker.torrents[infoHash]?.peers.length ?? 0
  }

  async stop() {
    await new Promise((resolve) => this.tracker.close(resolve))
  }
}
