// A subscriber hears of a put through another server within half a minute, when the two share nothing but the DHT, and
// within seconds when they share nothing but the record's topic swarm, which two servers find by the DHT.
// `benches/other_server.mjs` measures the same.

import assert from 'node:assert/strict'
import { trial } from './testkit/lab.mjs'
import { arrivals, SHARED, swarmOverUtp } from './testkit/other_server.mjs'
import { Socket } from './testkit/socket.mjs'
import { eventually } from './testkit/wait.mjs'

/**
 * Seconds, for a busy machine. By the swarm it is one message. The DHT is asked 5 seconds after the first version came, and
 * again 7.5 later (`records.poll_quickest`, a fifth more or less), so 15 at most and what a lookup takes.
 */
const MOST = { dht: 30, swarm: 10 }

for (const [what, most] of Object.entries(MOST)) {
  const share = SHARED[/** @type {keyof typeof MOST} */ (what)]
  const title = `a put reaches within ${most} s the subscribers of another server that shares only the ${what}`
  trial(title, async (lab) => {
    const pair = await share(lab)
    const seconds = await arrivals(pair, { runs: 5 })
    console.log(`put to subscriber of another server, ${what}: ${seconds.map((s) => s.toFixed(2)).join(', ')} s`)
    assert.ok(Math.max(...seconds) < most)

    // And that was the only way.
    for (const server of [pair.home, pair.away]) {
      const socket = await Socket.open(server.socket)
      const { dht } = await socket.ask({ action: 'dht_info' })
      assert.equal(dht.nodes > 0, what === 'dht', `${dht.nodes} DHT nodes`)
      assert.equal(/^swarmgate_gossip_records_total/m.test(await pair.away.metrics()), what === 'swarm')
      await socket.close()
    }
  })
}

trial('two servers that share only the DHT find each other there, and then need not wait for it', async (lab) => {
  const pair = await SHARED.both(lab)
  const found = /swarmgate_bridge_greetings_total\{result="ok",transport="[a-z]+"\} [1-9]/
  // They look for each other when the record is followed, and again some minutes later.
  const settled = async () => {
    await eventually(240, 'greeting', async () => found.test(await pair.away.metrics()) || undefined)
  }
  const seconds = await arrivals(pair, { runs: 1, settled })
  console.log(`put to subscriber of another server, found by the DHT: ${seconds.map((s) => s.toFixed(2)).join(', ')} s`)
  assert.ok(Math.max(...seconds) < MOST.swarm)
  assert.match(await pair.away.metrics(), /^swarmgate_gossip_records_total/m)
})

trial('and where the swarm can be reached over uTP alone', async (lab) => {
  const pair = await swarmOverUtp(lab)
  const seconds = await arrivals(pair, { runs: 3 })
  console.log(`put to subscriber of another server, swarm over uTP: ${seconds.map((s) => s.toFixed(2)).join(', ')} s`)
  assert.ok(Math.max(...seconds) < 60)
  const metrics = await pair.away.metrics()
  assert.match(metrics, /^swarmgate_gossip_records_total/m)
  assert.match(metrics, /swarmgate_bridge_greetings_total\{.*transport="utp".*\} [1-9]/)
  assert.doesNotMatch(metrics, /swarmgate_bridge_greetings_total\{.*transport="tcp".*\} [1-9]/)
  assert.ok(pair.relay.passed > 0)
})
