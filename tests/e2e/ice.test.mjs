// Pages learn their own address from their own server and ask no third party for it.

import assert from 'node:assert/strict'
import { trial } from './testkit/lab.mjs'
import { eventually } from './testkit/wait.mjs'

trial('a page asks only its own server for its address, and is told it', async (lab) => {
  const server = await lab.server({ env: { SWARMGATE__WEBRTC__STUN: 'true' } })
  const browser = await lab.browser()
  const page = await browser.open(server.page)
  await page.evaluate(() => {
    /** @type {any} */
    const global = globalThis
    global.asked = []
    const Connection = global.RTCPeerConnection
    global.RTCPeerConnection = class extends Connection {
      /** @param {any} settings */
      constructor(settings) {
        super(settings)
        global.asked.push(settings.iceServers)
      }
    }
    location.hash = `#magnet:?xt=urn:btih:${'ab'.repeat(20)}`
  })
  const asked = await eventually(30, 'offers of the page', async () => {
    const asked = await page.evaluate(() => /** @type {any} */ (globalThis).asked)
    return asked.length > 0 ? asked : null
  })
  const [host, port] = server.ready.webrtc.split(':')
  for (const servers of asked) assert.deepEqual(servers, [{ urls: `stun:${host}:${port}` }])
  await eventually(
    30,
    'answer to a STUN request of Chromium',
    async () => /bridge_stun_requests_total\{result="answered"\} [1-9]/.test(await server.metrics()) || null,
  )
})
