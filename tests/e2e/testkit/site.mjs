// A small site: Markdown, an image of several pieces, and a second page below a folder.

import { createHash } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32, deflateSync } from 'node:zlib'

export const IMAGE = { width: 320, height: 200 }

/**
 * @param {string} dir
 * @param {{ heading?: string }} [options]
 */
export async function writeSite(dir, { heading = 'Tide tables' } = {}) {
  await mkdir(join(dir, 'img'), { recursive: true })
  await mkdir(join(dir, 'posts'), { recursive: true })
  await writeFile(
    join(dir, 'index.md'),
    `# ${heading}\n\nThe harbour at noon:\n\n![The harbour](img/harbour.png)\n\nRead about [the spring tide](posts/spring.md).\n`,
  )
  await writeFile(join(dir, 'posts', 'spring.md'), '# The spring tide\n\nBack to [the tables](../index.md).\n')
  await writeFile(join(dir, 'img', 'harbour.png'), noise(IMAGE))
}

/**
 * A PNG of noise, so that it does not compress: about 190 KB.
 * @param {{ width: number, height: number }} size
 */
function noise({ width, height }) {
  const row = (/** @type {number} */ y) => {
    const bytes = Buffer.alloc(1 + width * 3)
    for (let x = 1; x < bytes.length; x += 32) createHash('sha256').update(`${x},${y}`).digest().copy(bytes, x)
    return bytes
  }
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  header.set([8, 2], 8) // 8 bits a channel, RGB
  const pixels = deflateSync(Buffer.concat(Array.from({ length: height }, (_, y) => row(y).fill(0, 0, 1))))
  const signature = Buffer.from('89504e470d0a1a0a', 'hex')
  return Buffer.concat([signature, chunk('IHDR', header), chunk('IDAT', pixels), chunk('IEND', Buffer.alloc(0))])
}

/**
 * @param {string} type
 * @param {Buffer} data
 */
function chunk(type, data) {
  const body = Buffer.concat([Buffer.from(type), data])
  const out = Buffer.alloc(body.length + 8)
  out.writeUInt32BE(data.length, 0)
  body.copy(out, 4)
  out.writeUInt32BE(crc32(body), out.length - 4)
  return out
}
