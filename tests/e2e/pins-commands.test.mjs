// The pin commands as scripts use them: exit codes, lines of JSON, completions.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { trial } from './testkit/lab.mjs'
import { run } from './testkit/swarmgate.mjs'

const exec = promisify(execFile)

trial('exit codes and lines of JSON', async (lab) => {
  const server = await lab.server()
  const operator = { SWARMGATE_SERVER: `http://${server.ready.admin}` }
  const [a, b, none] = ['a', 'b', 'c'].map((digit) => digit.repeat(40))
  const json = async (/** @type {string[]} */ ...args) => {
    const { code, stdout, stderr } = await run([...args, '--json'], { env: operator })
    assert.equal(code, 0, `${args.join(' ')}: ${stderr}`)
    return stdout
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line))
  }
  const [token] = await json('token', 'new', '--name', 'anna', '--max-pins', '2', '--expires', '1d')
  const anna = { SWARMGATE_SERVER: `http://${server.ready.web}`, SWARMGATE_TOKEN: token.token }
  for (const target of [a, b]) {
    assert.equal((await run(['pin', 'add', `${target}`, '--name', `${target}`], { env: anna })).code, 0)
  }
  const pins = await json('pin', 'ls')
  assert.deepEqual(pins.map((pin) => pin.target.info_hash).sort(), [a, b])
  assert.deepEqual(
    (await json('pin', 'ls', '--name', 'aaa')).map((pin) => pin.name),
    [a],
  )
  assert.deepEqual(
    (await json('pin', 'status', `${a}`)).map((pin) => pin.id),
    [pins.find((pin) => pin.target.info_hash === a).id],
  )
  assert.deepEqual(
    (await json('pin', 'versions', `${a}`)).map((version) => [version.seq, version.state]),
    [[0, 'wanted']],
  )
  assert.deepEqual(
    (await json('token', 'ls')).map(({ name, usage }) => [name, usage.pins]),
    [['anna', 2]],
  )

  /** @type {[string[], Record<string, string>, number, RegExp][]} */
  const table = [
    [['pin', 'status', `${a}`], anna, 0, /aaa/],
    [['usage'], anna, 0, /^2 of 2 pins/],
    [['pin', 'add', `${a}`, '--wait=1'], anna, 1, /too long|no peer/],
    [['pin', 'add', `${none}`], anna, 1, /2 pins/],
    [['pin', 'ls'], { ...anna, SWARMGATE_TOKEN: 'sg_wrong' }, 1, /does not work/],
    [['pin', 'ls'], { ...anna, SWARMGATE_SERVER: 'http://127.0.0.1:1' }, 1, /does not answer/],
    [['token', 'ls'], anna, 3, /./],
    [['pin', 'add', 'nonsense'], anna, 2, /nonsense|link/],
    [['pin', 'ls', '--status', 'asleep'], anna, 2, /status is/],
    [['pin', 'add'], anna, 2, /required/],
    [['pin', 'add', `${a}`, '--expires', 'soon'], anna, 2, /30d/],
    [['pin', 'status', `${none}`], anna, 3, /not pinned/],
    [['pin', 'restore', `${a}`, '9'], anna, 3, /no version 9|version/],
    [['token', 'revoke', '0'.repeat(16)], operator, 3, /no such token/],
    [['token', 'revoke', token.id], operator, 0, /revoked/],
    [['pin', 'ls'], anna, 1, /does not work/],
    [['token', 'ls'], operator, 0, /2 of 2 pins.*revoked 20.*anna/],
    [['pin', 'rm', `${a}`, `${b}`], operator, 0, /removed/],
    [['token', 'ls'], operator, 0, /^\s*$/],
  ]
  for (const [args, env, code, said] of table) {
    const outcome = await run(args, { env })
    const text = outcome.stdout + outcome.stderr
    assert.equal(outcome.code, code, `${args.join(' ')}: ${text}`)
    assert.match(text, said, args.join(' '))
  }
})

trial('completions are what the shells understand', async (lab) => {
  const home = await lab.directory()
  for (const shell of ['bash', 'zsh', 'fish']) {
    const { code, stdout } = await run(['completions', shell])
    assert.equal(code, 0)
    for (const word of ['pin', 'restore', 'with-pins', 'max-bytes'])
      assert.ok(stdout.includes(word), `${shell}: ${word}`)
    await writeFile(join(home, shell), stdout)
  }
  const tried = `source ${join(home, 'bash')}; COMP_WORDS=(swarmgate pin re); COMP_CWORD=2; _swarmgate swarmgate re pin; echo "\${COMPREPLY[*]}"`
  assert.match((await exec('bash', ['-c', tried])).stdout, /^restore$/m)
})
