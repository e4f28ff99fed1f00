// @vitest-environment jsdom
import { beforeEach, expect, test, vi } from 'vitest'

import { loadImages } from './images.ts'

/** Stands in for the view: tells what is watched, and lets the test say what has come near. */
let watched: Element[]
let comeNear: (image: Element) => void

beforeEach(() => {
  watched = []
  vi.stubGlobal(
    'IntersectionObserver',
    class {
      constructor(callback: (entries: { isIntersecting: boolean; target: Element }[]) => void) {
        comeNear = (target) => callback([{ isIntersecting: true, target }])
      }
      observe = (image: Element) => void watched.push(image)
      unobserve = (image: Element) => void (watched = watched.filter((other) => other !== image))
      disconnect = () => void (watched = [])
    },
  )
  let count = 0
  URL.createObjectURL = vi.fn(() => `blob:${++count}`)
  URL.revokeObjectURL = vi.fn()
  HTMLImageElement.prototype.decode = () => Promise.resolve()
})

function page(): [root: HTMLElement, image: HTMLImageElement] {
  const root = document.createElement('article')
  const image = document.createElement('img')
  Object.assign(image.dataset, { file: 'img/a.png', state: 'waiting' })
  image.alt = 'a boat'
  root.append(image)
  return [root, image]
}

const settle = () => new Promise((resolve) => setImmediate(resolve))

test('an image is fetched when it comes near, and let go with the page', async () => {
  const [root, image] = page()
  const read = vi.fn(async () => new Blob(['x']))
  const stop = loadImages(root, read)
  expect(watched).toEqual([image])
  expect(read).not.toHaveBeenCalled()

  comeNear(image)
  await settle()
  expect(read).toHaveBeenCalledWith('img/a.png')
  expect(image.getAttribute('src')).toBe('blob:1')
  expect(image.dataset['state']).toBe('loaded')
  expect(watched).toEqual([])

  stop()
  expect(URL.revokeObjectURL).toHaveBeenCalledWith('blob:1')
})

test('an image that comes after the page was left is not shown, and leaks nothing', async () => {
  const [root, image] = page()
  let deliver: (blob: Blob) => void = () => {}
  const stop = loadImages(root, () => new Promise((resolve) => (deliver = resolve)))
  comeNear(image)
  stop()
  deliver(new Blob(['x']))
  await settle()
  expect(URL.createObjectURL).not.toHaveBeenCalled()
  expect(image.hasAttribute('src')).toBe(false)
})

test.each([
  ['cannot be had', () => Promise.reject(new Error('gone')), () => Promise.resolve()],
  ['is no image', async () => new Blob(['x']), () => Promise.reject(new Error('EncodingError'))],
])('what %s is a sentence in its place', async (_, read, decode) => {
  HTMLImageElement.prototype.decode = decode
  const [root, image] = page()
  loadImages(root, read)
  comeNear(image)
  await settle()
  expect(root.textContent).toBe('a boatThis image cannot be shown')
})
