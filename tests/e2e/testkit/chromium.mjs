// Debian's Chromium, driven by playwright-core.

import { mkdir } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'

export const EXECUTABLE = process.env['CHROMIUM'] ?? '/usr/bin/chromium'
const ARTIFACTS = fileURLToPath(new URL('../artifacts/', import.meta.url))

const ARGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-dev-shm-usage',
]

/** @typedef {import('playwright-core').Page} Page */

/** Run in every page before its own scripts: no offer is ever ready, as where a firewall lets WebRTC reach nobody. */
export function withoutPeers() {
  Object.assign(RTCPeerConnection.prototype, { createOffer: () => new Promise(() => {}) })
}

export class Browser {
  /** @param {string} [executablePath] @param {() => void} [script]  run in every page before its own @param {string[]} [args]  besides those that every trial needs */
  static async start(executablePath = EXECUTABLE, script = () => {}, args = []) {
    return new Browser(await chromium.launch({ executablePath, args: [...ARGS, ...args], headless: true }), script)
  }

  /** @param {import('playwright-core').Browser} browser @param {() => void} script */
  constructor(browser, script) {
    this.browser = browser
    this.script = script
    /** @type {string[]} what the pages said, to show when a test fails */
    this.log = []
  }

  /**
   * A page in a profile of its own: nothing is remembered from one to the next.
   * @param {string} url
   * @returns {Promise<Page>}
   */
  async open(url) {
    const context = await this.browser.newContext({ viewport: { width: 1000, height: 800 } })
    await context.addInitScript(this.script)
    const page = await context.newPage()
    page.on('console', (message) => this.log.push(`${message.type()}: ${message.text()}`))
    page.on('pageerror', (error) => this.log.push(`uncaught: ${error.stack ?? error.message}`))
    page.on('requestfailed', (request) => this.log.push(`failed: ${request.url()} ${request.failure()?.errorText}`))
    await page.goto(url)
    return page
  }

  /** @param {Page} page @param {string} name */
  async screenshot(page, name) {
    await mkdir(ARTIFACTS, { recursive: true })
    await page.screenshot({ path: `${ARTIFACTS}${name}.png` })
  }

  async stop() {
    await this.browser.close()
  }
}
