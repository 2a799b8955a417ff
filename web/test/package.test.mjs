// What `npm pack` makes of this directory, in a project that has nothing else.

import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'

const HERE = fileURLToPath(new URL('..', import.meta.url))
const { name: NAME, version: VERSION } = JSON.parse(fs.readFileSync(path.join(HERE, 'package.json'), 'utf8'))
const README = fs.readFileSync(path.join(HERE, 'README.md'), 'utf8')
const [, JSX] = /^```tsx page.tsx\n([^]*?)^```$/m.exec(README)

const FILES = [
  'LICENSE', 'README.md', 'dist/scan-login.js', 'package.json', 'react.d.ts', 'scan-login.d.ts',
  'src/calls.js', 'src/events.js', 'src/login.js', 'src/scan-login.js', 'src/style.js', 'src/words.js',
]

let project
const write = (name, text) => fs.writeFileSync(path.join(project, name), text)

before(() => {
  project = fs.mkdtempSync(path.join(os.tmpdir(), 'scanlogin-package-'))
  write('package.json', '{ "private": true, "type": "module" }')
  const npm = (...args) => execFileSync('npm', args, { cwd: project, stdio: 'pipe' })
  // Its own script builds dist/ anew, whose state is for another test to judge.
  npm('pack', '--ignore-scripts', HERE)
  npm('install', '--offline', '--ignore-scripts', '--no-audit', '--no-fund', `${NAME}-${VERSION}.tgz`)
})
after(() => fs.rmSync(project, { recursive: true }))

test('it is installed from its tarball, with what it needs and no more', () => {
  const installed = path.join(project, 'node_modules', NAME)
  const files = fs.readdirSync(installed, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
  assert.deepEqual(files.map((entry) => path.relative(installed, path.join(entry.parentPath ?? entry.path, entry.name))).sort(), FILES)
  assert.deepEqual(fs.readdirSync(path.join(project, 'node_modules')).filter((name) => !name.startsWith('.')), [NAME], 'it brings nothing along')
  assert.ok(README.includes(`npm install ${NAME}-${VERSION}.tgz`), 'the README says how')
})

for (const entry of [NAME, `${NAME}/react`]) {
  test(`import '${entry}' defines the element`, () => {
    write('page.js', `
      const defined = {}
      globalThis.HTMLElement = class {}
      globalThis.customElements = { get: (name) => defined[name], define: (name, element) => { defined[name] = element } }
      const { ScanLogin } = await import('${entry}')
      console.log(Object.keys(defined).join(), defined['scan-login'] === ScanLogin)
    `)
    assert.equal(execFileSync(process.execPath, ['page.js'], { cwd: project, encoding: 'utf8' }), 'scan-login true\n')
  })
}

/** What the compiler says of these files, as `file: first line` of each. */
function faults(files) {
  for (const [name, text] of Object.entries(files)) write(name, text)
  // React's types are not the package's to bring.
  const types = path.join(project, 'node_modules', '@types')
  if (!fs.existsSync(types)) fs.symlinkSync(path.join(HERE, 'node_modules', '@types'), types)
  const options = '--noEmit --pretty false --strict --skipLibCheck false --target es2022 --module nodenext --lib es2022,dom,dom.iterable --jsx react-jsx'
  const tsc = path.join(HERE, 'node_modules', '.bin', 'tsc')
  const { stdout, status, error } = spawnSync(tsc, [...options.split(' '), ...Object.keys(files)], { cwd: project, encoding: 'utf8' })
  assert.ifError(error)
  const found = [...stdout.matchAll(/^(\S+?)\(\d+,\d+\): error (TS\d+): /gm)].map(([, file, code]) => `${file} ${code}`)
  assert.equal(status === 0, found.length === 0, stdout)
  return { found, stdout }
}

test('a site in TypeScript imports it by its name', () => {
  const { stdout } = faults({
    'site.ts': `
      import '${NAME}';
      import type { ScanLoginEvents } from '${NAME}';
      const login: HTMLElementTagNameMap['scan-login'] = document.createElement('scan-login');
      login.setAttribute('client-id', 'shop');
      login.addEventListener('scan-login:confirmed', ({ detail }) => {
        const { code, profile }: ScanLoginEvents['scan-login:confirmed'] = detail;
        login.fail({ words: [code ?? '', profile.nickname ?? ''] });
      });
    `,
    'page.tsx': `
      import '${NAME}/react';
      import { useRef } from 'react';
      import type { ScanLogin } from '${NAME}';
      export function Page({ finish }: { finish: (code: string | null) => void }) {
        const login = useRef<ScanLogin>(null);
        return <div onClick={() => login.current?.refresh()}>
          ${JSX}
          <scan-login ref={login} service="https://login.example" nonce="n" auto-refresh={0} env-version="trial" lang="zh" paused className="x">
            <img slot="logo" src="/logo.svg" />
          </scan-login>
        </div>;
      }
    `,
  })
  assert.equal(stdout, '')
})

test('and is told what it writes wrongly', () => {
  const jsx = (element) => `import '${NAME}/react'; export const page = ${element};`
  const wrong = {
    'detail.ts': [`import '${NAME}'; document.querySelector('scan-login')!.addEventListener('scan-login:scanned', ({ detail }) => detail.code);`, 'TS2339'],
    'state.ts': [`import type { ScanLoginState } from '${NAME}'; export const state: ScanLoginState = 'done';`, 'TS2322'],
    'words.ts': [`import '${NAME}'; document.createElement('scan-login').words = 'Scan me';`, 'TS2559'],
    'entry.ts': [`import '${NAME}/vue';`, 'TS2882'],
    'attribute.tsx': [jsx('<scan-login clientId="shop" />'), 'TS2322'],
    'value.tsx': [jsx('<scan-login auto-refresh="often" />'), 'TS2322'],
    'event.tsx': [jsx(`<scan-login {...{ 'onscan-login:confirmed': ({ detail }) => detail.state }} />`), 'TS2339'],
    'handler.tsx': [jsx(`<scan-login {...{ 'onscan-login:confirmed': 'finish()' }} />`), 'TS2322'],
  }
  const { found, stdout } = faults(Object.fromEntries(Object.entries(wrong).map(([name, [text]]) => [name, text])))
  assert.deepEqual(found.sort(), Object.entries(wrong).map(([name, [, code]]) => `${name} ${code}`).sort(), stdout)
})
