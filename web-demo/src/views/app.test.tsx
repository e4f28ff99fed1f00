// @vitest-environment jsdom
import { render } from 'preact'
import { importSeed, signRecord } from 'swarmgate-client'
import { parseMagnet } from 'swarmgate-client/magnet'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import { HOME } from '../route.ts'
import { INITIAL, type Problem, type State } from '../state.ts'
import type { Actions } from './actions.ts'
import { App } from './app.tsx'

const key = await importSeed(new Uint8Array(32).fill(8))
const magnet = parseMagnet(`magnet:?xs=urn:btpk:${key.publicKey}`)
const record = await signRecord(key, { infoHash: '11'.repeat(20), seq: 1234 })
const OPENING: State = { ...INITIAL, phase: 'finding-record', magnet, place: HOME }
const SHOWN: State = {
  ...OPENING,
  phase: 'shown',
  record,
  checkedAt: Date.now(),
  swarm: { peers: 1, progress: 1, speed: 2_500_000 },
  version: { infoHash: '11'.repeat(20), name: 'site', paths: ['index.md', 'b.md'] },
  page: { path: 'index.md', html: '<h1>Hello</h1><script>alert(1)</script>', title: 'Hello' },
}

let root: HTMLElement
let actions: { [K in keyof Actions]: ReturnType<typeof vi.fn> }

beforeEach(() => {
  root = document.createElement('div')
  document.body.append(root)
  vi.stubGlobal('scrollTo', vi.fn())
  vi.stubGlobal(
    'IntersectionObserver',
    class {
      observe() {}
      disconnect() {}
    },
  )
  const names = ['open', 'retry', 'check', 'acceptUpdate', 'dismissUpdate', 'copyLink', 'image', 'save'] as const
  actions = Object.fromEntries(names.map((name) => [name, vi.fn()])) as typeof actions
})
afterEach(() => {
  render(null, root)
  root.remove()
})

const draw = (state: State) => render(<App state={state} actions={actions as unknown as Actions} />, root)
const button = (name: string) => [...root.querySelectorAll('button')].find((b) => b.textContent?.startsWith(name))
const status = () => root.querySelector('[role=status]')?.textContent
/** Lets Preact act on what was typed or clicked. */
const settle = () => new Promise((resolve) => setTimeout(resolve))

describe('start', () => {
  const submit = async (link: string) => {
    const input = root.querySelector('input') as HTMLInputElement
    input.value = link
    root.querySelector('form')?.dispatchEvent(new SubmitEvent('submit', { cancelable: true, bubbles: true }))
    await settle()
  }

  test('opens what is pasted', async () => {
    draw(INITIAL)
    await submit(` magnet:?xs=urn:btpk:${key.publicKey} `)
    expect(actions.open).toHaveBeenCalledWith({ magnet, place: HOME })
  })

  test('says in one sentence what is wrong with a link', async () => {
    draw(INITIAL)
    await submit('magnet:?xt=urn:btih:1234')
    expect(root.querySelector('[role=alert]')?.textContent).toBe(
      "This link cannot be opened: the magnet link's info hash is malformed.",
    )
    expect(root.querySelector('input')?.getAttribute('aria-invalid')).toBe('true')
    expect(actions.open).not.toHaveBeenCalled()
  })
})

test('the way to a page, in words', () => {
  draw(OPENING)
  expect(status()).toBe('Finding the record')
  const now = () => root.querySelector('[aria-current=step]')?.textContent
  expect(now()).toBe('Finding the record')
  draw({ ...OPENING, phase: 'finding-peers', record })
  expect(status()).toBe(
    `Finding peers · record 1,234 · signed by ${key.publicKey.slice(0, 8)}…${key.publicKey.slice(-6)}`,
  )
  draw({ ...OPENING, phase: 'loading', record, swarm: { peers: 2, progress: 0.428, speed: 0 } })
  expect(now()).toBe('Loading42%')
  expect(button('2 peers')).toBeDefined()
})

test('a page, clean, with its facts on demand', async () => {
  draw(SHOWN)
  expect(root.querySelector('article')?.textContent).toContain('Hello')
  expect(root.querySelector('script')).toBeNull()
  expect(status()).toContain('Shown · record 1,234')
  button('1 peer')?.click()
  await settle()
  const facts = root.querySelector('.facts')?.textContent
  for (const fact of [key.publicKey, '11'.repeat(20), '100%', '2.5 MB/s', 'index.md', 'b.md'])
    expect(facts).toContain(fact)
})

test('a newer version is offered', () => {
  draw({ ...SHOWN, update: record })
  expect(root.querySelector('.toast')?.textContent).toContain('A new version is available')
  button('Show it')?.click()
  expect(actions.acceptUpdate).toHaveBeenCalledOnce()
  button('Not now')?.click()
  expect(actions.dismissUpdate).toHaveBeenCalledOnce()
})

describe('problems', () => {
  const codes: readonly Problem['code'][] = [
    'bad-link',
    'insecure',
    'no-webrtc',
    'no-server',
    'unsupported',
    'refused',
    'not-found',
    'forged',
    'stale',
    'no-torrent',
    'no-peers',
    'torrent',
    'no-page',
    'page-missing',
    'page-too-large',
    'unexpected',
  ]

  test.each(codes)('%s is told, and only there', (code) => {
    draw({ ...OPENING, phase: 'error', problem: { code, detail: 'x' } })
    const alert = root.querySelector('[role=alert]')
    expect(alert?.getAttribute('data-code')).toBe(code)
    expect(alert?.querySelector('p')?.textContent).toMatch(/^[A-Z].+\.$/)
    expect(root.querySelectorAll('h1')).toHaveLength(1)
  })

  test('one that concerns no page leaves the page where it is', () => {
    draw({ ...SHOWN, phase: 'error', problem: { code: 'no-peers', detail: '' } })
    expect(root.querySelector('article')).not.toBeNull()
    button('Try again')?.click()
    expect(actions.retry).toHaveBeenCalledOnce()
    draw({ ...SHOWN, phase: 'error', problem: { code: 'page-missing', detail: 'x.md' } })
    expect(root.querySelector('article')).toBeNull()
    expect(root.querySelector('[role=alert] a')?.getAttribute('href')).toBe(`#magnet:?xs=urn:btpk:${key.publicKey}`)
  })
})
