import { expect, test, vi } from 'vitest'

import { addressOf, addWebSeed, webSeedAt } from './web-seeds.ts'

const IH = '11'.repeat(20)
const SEED = `https://host.example/v1/webseeds/${IH}/`

test('a web seed is on the host of the socket', () => {
  const table: [string, string, string | null][] = [
    ['wss://host.example/announce', '/v1/webseeds/', SEED],
    ['ws://127.0.0.1:8080/announce', '/seeds/', `http://127.0.0.1:8080/seeds/${IH}/`],
    ['wss://host.example/announce', 'https://host.example/v1/webseeds/', SEED],
    ['wss://host.example/announce', '//evil.example/v1/webseeds/', null],
    ['wss://host.example/announce', 'https://evil.example/', null],
    ['wss://host.example/announce', 'http://host.example/', null],
    ['wss://host.example/announce', '/v1/webseeds', null],
    ['wss://host.example/announce', '/v1/webseeds/?x=/', null],
    ['wss://host.example/announce', 'javascript:/', null],
  ]
  for (const [socket, path, expected] of table) expect(webSeedAt(socket, path, IH)).toBe(expected)
})

test('the metadata is read there', () => {
  expect(addressOf(IH, null)).toBe(IH)
  const file = encodeURIComponent(`https://host.example/v1/webseeds/${IH}.torrent`)
  expect(addressOf(IH, SEED)).toBe(`magnet:?xt=urn:btih:${IH}&xs=${file}`)
})

test('it is added once the server has everything', async () => {
  const answers: (() => Promise<{ ok: boolean }>)[] = [
    async () => ({ ok: true }),
    async () => ({ ok: false }),
    () => Promise.reject(new TypeError('unreachable')),
  ]
  const added = []
  for (const answer of answers) {
    const asked = vi.fn<(url: string, options: object) => Promise<{ ok: boolean }>>(answer)
    vi.stubGlobal('fetch', asked)
    const addTo = vi.fn<(url: string) => void>()
    await addWebSeed({ addWebSeed: addTo }, SEED)
    expect(asked).toHaveBeenCalledWith(`https://host.example/v1/webseeds/${IH}.torrent`, { method: 'HEAD' })
    added.push(addTo.mock.calls.flat())
  }
  vi.unstubAllGlobals()
  expect(added).toEqual([[SEED], [], []])
  const left = { addWebSeed: () => { throw new Error('torrent is destroyed') } } // prettier-ignore
  vi.stubGlobal('fetch', answers[0])
  await addWebSeed(left, SEED)
  vi.unstubAllGlobals()
})
