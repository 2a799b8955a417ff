// Grafana's dashboard: rows of panels, each with what it says and what to do when it looks wrong.
// generate.mjs writes dashboards/scanlogin.json of it.

/** What the variables at the top choose. `process_*` has no name of ours, so the job tells whose it is. */
const CHOSEN = 'namespace=~"$namespace", job=~"$job", instance=~"$replica"'
const OF_CLIENT = `${CHOSEN}, client=~"$client"`
const DATASOURCE = { type: 'prometheus', uid: '${datasource}' }
const WIDTH = 24
const HEIGHTS = { stat: 4 }

/** A metric of the chosen replicas, and of it only what has these labels. */
const of = (metric, labels = '') => `${metric}{${[CHOSEN, labels].filter(Boolean).join(', ')}}`
const rate = (metric, labels) => `rate(${of(metric, labels)}[$__rate_interval])`
const rates = (by, metric, labels) => `sum by (${by}) (${rate(metric, labels)})`
const perMinute = (metric, labels) => `60 * sum(${rate(metric, labels)})`
const steps = (step) => of('scanlogin_login_steps_total', `step="${step}"`)
const quantile = (share, by, metric, labels) => `histogram_quantile(${share}, ${rates(['le', by].filter(Boolean).join(', '), `${metric}_bucket`, labels)})`

/** A query, and what its lines are called. */
const q = (expr, legendFormat) => ({ expr, legendFormat })

const stat = (title, description, unit, queries, more = {}) => ({ type: 'stat', width: 4, title, description, unit, queries, ...more })
const lines = (title, description, unit, queries, more = {}) => ({ type: 'timeseries', width: 8, title, description, unit, queries, ...more })

/** From which value on it is orange, and red. */
const thresholds = (orange, red) => ({
  mode: 'absolute',
  steps: [{ color: 'green', value: null }, { color: 'orange', value: orange }, { color: 'red', value: red }],
})

const words = (options) => [{
  type: 'value',
  options: Object.fromEntries(Object.entries(options).map(([value, [text, color]], index) => [value, { text, color, index }])),
}]

const ROWS = {
  'Is it well': [
    stat('Replicas', 'Replicas that Prometheus sees. Fewer than were deployed: look at the pods or containers, and at the alert ScanloginReplicaSilent.', 'short',
      [q(`count(${of('scanlogin_build_info')})`, 'replicas')]),
    stat('Streams open', 'Pages that show a code and listen. It follows your traffic; a fall to nothing while people come means that pages can\'t connect.', 'short',
      [q(`sum(${of('scanlogin_streams_open')})`, 'streams')]),
    stat('Logins a minute', 'Logins that a site has redeemed: people who are in. Compare with the same hour yesterday before you believe a fall.', 'short',
      [q(`60 * sum(rate(${steps('redeemed')}[5m]))`, 'logins')], { decimals: 1 }),
    stat('Requests that fail', 'The share of requests answered with 5xx. Above 2 % for five minutes it pages: see Failures by route.', 'percentunit',
      [q(`(sum(${rate('scanlogin_http_request_seconds_count', 'status=~"5.."')}) or vector(0)) / sum(${rate('scanlogin_http_request_seconds_count')})`, 'failed')],
      { thresholds: thresholds(0.005, 0.02) }),
    stat('WeChat is', 'Whether the real WeChat answers. Behind a simulator anybody logs in as anybody: never where people trust it.', 'short',
      [q(`max(${of('scanlogin_simulator')})`, '')], { mappings: words({ 0: ['real', 'green'], 1: ['simulated', 'orange'] }) }),
    stat('Versions', 'How many replicas run which version. Two side by side are fine during a roll; for an hour, the roll got stuck.', 'short',
      [q(`count by (version) (${of('scanlogin_build_info')})`, '{{version}}')], { textMode: 'value_and_name' }),
    {
      type: 'table', width: 8, title: 'Alerts', unit: 'short',
      description: 'What is pending or firing, of all installations that this Prometheus watches. Each has a runbook in docs/operations.md under its name.',
      queries: [q('sort_desc(count by (alertname, severity, alertstate, namespace, job) (ALERTS{alertname=~"Scanlogin.*"}))', '')],
    },
    lines('Requests by status', 'What was answered, each second. 429 is a limit, 503 Redis, WeChat or a bound, 502 and 504 WeChat, 500 a bug or a record that can\'t be read.', 'reqps',
      [q(rates('status', 'scanlogin_http_request_seconds_count'), '{{status}}')], { stacked: true }),
    lines('Failures by route', 'Which routes answer with 5xx. /scenes/{scene}/code alone is WeChat\'s pictures; all at once is Redis.', 'reqps',
      [q(rates('route, method, status', 'scanlogin_http_request_seconds_count', 'status=~"5.."'), '{{status}} {{method}} {{route}}')]),
    lines('Slowest in a hundred, by route', 'The time to the answer\'s head, 99th percentile. Scans and pictures wait for WeChat, GET /scenes/{scene} may wait for news on purpose; any other above half a second is Redis.', 's',
      [q(quantile(0.99, 'route, method', 'scanlogin_http_request_seconds'), '{{method}} {{route}}')]),
    lines('Settings read again', 'Changed files that were taken or refused. Refused: the replica goes on with what it had; its log names file, line and reason.', 'short',
      [q(`sum by (outcome) (increase(${of('scanlogin_settings_read_again_total')}[$__rate_interval]))`, '{{outcome}}')]),
  ],
  'The funnel': [
    lines('Steps a minute', 'Where people get lost: created, code shown, watched by its page, scanned, confirmed, redeemed. Shown and watched count a code again that is loaded again. A gap that was not there yesterday is the step to look at.', 'short',
      [
        q(perMinute('scanlogin_scenes_created_total'), 'created'),
        ...['shown', 'watched', 'scanned', 'confirmed', 'redeemed'].map((step) => q(perMinute('scanlogin_login_steps_total', `step="${step}"`), step)),
      ]),
    {
      type: 'bargauge', width: 8, title: 'Steps in the time shown', unit: 'short',
      description: 'The same steps, added up over the range chosen at the top right.',
      queries: [
        q(`sum(increase(${of('scanlogin_scenes_created_total')}[$__range]))`, 'created'),
        ...['shown', 'watched', 'scanned', 'confirmed', 'redeemed'].map((step) => q(`sum(increase(${steps(step)}[$__range]))`, step)),
      ],
    },
    lines('Share that goes on', 'Of those created how many are scanned, of those scanned confirmed, of those confirmed redeemed. Scanned falls: codes or the Mini Program. Confirmed falls: the Mini Program after the scan, or warnings. Redeemed falls: a site\'s backend.', 'percentunit',
      [
        q(`sum(${rate('scanlogin_login_steps_total', 'step="scanned"')}) / sum(${rate('scanlogin_scenes_created_total')})`, 'created → scanned'),
        ...[['scanned', 'confirmed'], ['confirmed', 'redeemed']].map(([before, step]) => q(
          `sum(${rate('scanlogin_login_steps_total', `step="${step}"`)}) / sum(${rate('scanlogin_login_steps_total', `step="${before}"`)})`, `${before} → ${step}`)),
      ]),
    lines('How others ended, a minute', 'Declined on the phone, cancelled by the page, expired while somebody watched. Many expired is normal, as pages are left open; a jump with few scans is a code that can\'t be scanned.', 'short',
      [q(`60 * ${rates('step', 'scanlogin_login_steps_total', 'step=~"declined|cancelled|expired"')}`, '{{step}}')]),
    lines('Time to a step, half of people', 'The median from the step before to this one. A scan that takes longer than it did: the code appears late. A redemption of more than a second: the site\'s backend is slow.', 's',
      [q(quantile(0.5, 'step', 'scanlogin_login_step_seconds'), '{{step}}')]),
    lines('Time to a step, one in ten', 'The 90th percentile of the same: those who have trouble. It rises before the median does when codes are hard to scan.', 's',
      [q(quantile(0.9, 'step', 'scanlogin_login_step_seconds'), '{{step}}')]),
    lines('Time of a whole login', 'From the start to the redemption. Most of it is people; a shift of all three lines together is ours.', 's',
      [0.5, 0.9, 0.99].map((share) => q(quantile(share, '', 'scanlogin_login_seconds'), `p${share * 100}`))),
    lines('Declined, by site and reason, an hour', 'Who said no. not_me and wrong_number are people before whom somebody else\'s login was put: many of them are an attack on that site.', 'short',
      [q(`sum by (client, reason) (increase(scanlogin_declined_total{${OF_CLIENT}}[1h]))`, '{{client}}: {{reason}}')]),
    lines('How phones came to the code, an hour', 'By camera, by a picture, by a card in a chat, and what the site makes of it. More pictures and cards than usual: codes are passed on.', 'short',
      [q(`sum by (client, entry, verdict) (increase(scanlogin_scans_total{${OF_CLIENT}}[1h]))`, '{{client}}: {{entry}}, {{verdict}}')]),
  ],
  WeChat: [
    lines('Calls by outcome', 'What is asked of WeChat and how it went. errcode is a refusal, limited our own budget, circuit_open a call not made since WeChat is thought dead; invalid is an answer that is none.', 'reqps',
      [q(rates('call, outcome', 'scanlogin_wechat_request_seconds_count'), '{{call}}: {{outcome}}')], { stacked: true }),
    lines('Error codes, an hour', 'What WeChat refused with. 40164: our address is not in its whitelist; 40125: the AppSecret; 40013: the AppID; 41030: the page is not in the release; 45009: the day\'s quota. The log has advice for each.', 'short',
      [q(`sum by (call, errcode) (increase(${of('scanlogin_wechat_errcodes_total')}[1h]))`, '{{call}}: {{errcode}}')]),
    lines('WeChat, slowest in a hundred', '99th percentile of each call. A picture may take seconds; a scan above one second is felt by whoever holds the phone.', 's',
      [q(quantile(0.99, 'call', 'scanlogin_wechat_request_seconds'), '{{call}}')]),
    lines('Life left of the access_token', 'The least of all replicas. It falls from two hours to five minutes and is renewed; lower, WeChat gives none, and new codes stop at nothing.', 's',
      [q(`min by (appid) (${of('scanlogin_access_token_left_seconds')})`, '{{appid}}')]),
    lines('Access tokens asked for, an hour', 'One in about two hours is right, however many replicas. More: somebody else fetches with the same AppID and takes ours back, or Redis forgets it.', 'short',
      [q(`sum by (call, outcome) (increase(${of('scanlogin_wechat_request_seconds_count', 'call=~"stable_token|token"')}[1h]))`, '{{call}}: {{outcome}}')]),
    lines('Waiting for an access_token', 'How long a replica that needed one waited since it started, on average, for WeChat or for the replica that holds the lease. Ten seconds: the holder fell silent. Those that failed went without, and pages with them.', 's',
      [q(`sum by (instance, outcome) (${of('scanlogin_access_token_fetch_seconds_sum')}) / sum by (instance, outcome) (${of('scanlogin_access_token_fetch_seconds_count')})`, '{{instance}}: {{outcome}}')]),
    lines('Codes made ahead', 'Pictures ready in each replica\'s pool. Nothing for long where a pool is set: WeChat gives no codes as fast as pages take them, and pages wait.', 'short',
      [q(of('scanlogin_code_pool_ready'), '{{instance}}')]),
    lines('Hosts thought dead', '1 while a replica asks a host of WeChat but once in a while, after five failures in a row. A replica that never met one has no line. One host alone is no harm: the other is asked.', 'short',
      [q(`max by (call, host) (${of('scanlogin_wechat_circuit_open')})`, '{{call}} at {{host}}')], { max: 1 }),
  ],
  Redis: [
    lines('Requests by kind', 'What Redis is asked, tries of one request taken together. It follows the logins.', 'reqps',
      [q(rates('op', 'scanlogin_store_request_seconds_count'), '{{op}}')], { stacked: true }),
    lines('Failures', 'unavailable: no answer in time, or no connection. given_up: whoever asked did not wait that long. full: no memory for more, new logins are refused. corrupt: something else wrote where our keys are.', 'reqps',
      [q(rates('op, outcome', 'scanlogin_store_request_seconds_count', 'outcome!="ok"'), '{{op}}: {{outcome}}')]),
    lines('Redis, slowest in a hundred', '99th percentile of each kind. A few milliseconds are right; confirms and redemptions also wait for a replica of Redis.', 's',
      [q(quantile(0.99, 'op', 'scanlogin_store_request_seconds', 'op!="ready"'), '{{op}}')]),
    lines('Times news may have been missed', 'Subscriptions lost, by cause: closed and timeout are the server or the way to it, moved a fail-over, refused a missing right. Each is followed by reading again, so nobody loses a login; one each minute wants a look at the network.', 'short',
      [q(`sum by (cause) (increase(${of('scanlogin_store_lost_total')}[$__rate_interval]))`, '{{cause}}')]),
    lines('Connections made to Redis', 'By what they are for: commands, or the news of scenes. Each replica makes one of both to each server when it starts; any more replace one that ended or fell silent.', 'short',
      [q(`sum by (use) (increase(${of('scanlogin_store_connections_total')}[$__rate_interval]))`, '{{use}}')]),
    lines('Scenes that are not heard of', 'Scenes whose changes Redis does not tell at the moment. Back at nothing within seconds is right; for a minute it pages.', 'short',
      [q(`sum by (instance) (${of('scanlogin_scenes_unheard')})`, '{{instance}}')]),
    lines('Read again, and what was found', 'Scenes read because news were lost, their end came, or as the slow check that runs always. slow with new means that a message never came: some are normal around a fail-over.', 'ops',
      [q(rates('cause, found', 'scanlogin_rereads_total'), '{{cause}}: {{found}}')]),
    lines('Durable writes, by how their wait ended', 'Confirms and redemptions. replicated is right; vouched: a replica is missing and the sentinels answer for the primary; unreplicated: refused; not_asked: Redis has no replica, as one server alone; not_wanted: SCANLOGIN_REDIS_WAIT is 0.', 'ops',
      [q(rates('outcome', 'scanlogin_store_waits_total'), '{{outcome}}')]),
    lines('Clocks', 'By how much a replica\'s clock is ahead of that Redis server\'s which differs most. Above five seconds sites may refuse id_tokens: let all keep time by NTP.', 's',
      [q(of('scanlogin_clock_skew_seconds'), '{{instance}}')], { min: null }),
  ],
  Streams: [
    lines('Open, by replica', 'Even is right. After a roll the last replica has fewer until pages renew; one that stays at nothing gets no traffic.', 'short',
      [q(of('scanlogin_streams_open'), '{{instance}}')], { stacked: true }),
    lines('Closed, by reason', 'final: the login ended. client: the page was closed or its network went. replaced: a fourth page of one login. drain: its replica was asked to end. refused: no room for it.', 'ops',
      [q(rates('reason', 'scanlogin_streams_closed_total'), '{{reason}}')]),
    lines('Scenes watched, by replica', 'Logins whose changes a replica listens to. A little above its streams, as it leaves late; far above, pages come and go quickly.', 'short',
      [q(of('scanlogin_scenes_watched'), '{{instance}}')]),
  ],
  'Limits and shedding': [
    lines('Refused by a limit', 'By rule. *_per_address with many people behind it: an office, or a proxy that SCANLOGIN_TRUSTED_PROXIES does not name. pictures, code2session and token_calls are our own budgets below WeChat\'s.', 'reqps',
      [q(rates('rule', 'scanlogin_limited_total'), '{{rule}}')]),
    lines('Refused for want of room', 'By what was wanted, in the order in which it is refused: start, picture, watch, status, scan, finish. Something behind is slow, memory is short, or there are too few replicas.', 'reqps',
      [q(rates('work', 'scanlogin_requests_shed_total'), '{{work}}')]),
    lines('Requests under way', 'What Redis or WeChat are busy with, by replica. Some tens are right; from 512 on new logins are refused.', 'short',
      [q(of('scanlogin_requests_under_way'), '{{instance}}')]),
    lines('Limits counted alone', 'Requests that a replica counted for itself, as Redis did not in time. Logins go on, and limits are looser.', 'reqps',
      [q(`sum by (instance) (${rate('scanlogin_limits_alone_total')})`, '{{instance}}')]),
    lines('Connections refused', 'Connections closed at once, since their address had as many as it may. All from one: an attack, or a proxy that is not named as trusted.', 'cps',
      [q(`sum by (instance) (${rate('scanlogin_connections_refused_total')})`, '{{instance}}')]),
  ],
  Webhooks: [
    lines('Tries by site and result, an hour', 'delivered is right; failed comes again; given_up and dropped are lost; elsewhere: another replica had come to its end.', 'short',
      [q(`sum by (client, result) (increase(scanlogin_webhooks_total{${OF_CLIENT}}[1h]))`, '{{client}}: {{result}}')], { width: 12 }),
    lines('Waiting', 'What sites are still to be told, of all sites and replicas. It grows while a receiver is down and falls once it is back; at about 20,000 of a site further ones are lost.', 'short',
      [q(`max(${of('scanlogin_webhooks_waiting')})`, 'messages')], { width: 12 }),
  ],
  Process: [
    lines('CPU', 'Cores in use, by replica. A login takes about 3 ms, an idle stream next to nothing; high with few logins is worth a profile.', 'short',
      [q(rate('process_cpu_seconds_total'), '{{instance}}')], { decimals: 2 }),
    lines('Memory', 'Resident, by replica: some 16 MiB and 11.9 kB for each stream. From 80 % of the container\'s limit on, new logins are refused there.', 'bytes',
      [q(of('process_resident_memory_bytes'), '{{instance}}')]),
    lines('Descriptors', 'Open ones as a share of those allowed; a stream is one. Nearly all: raise the limit of open files, or add replicas.', 'percentunit',
      [q(`${of('process_open_fds')} / ${of('process_max_fds')}`, '{{instance}}')], { max: 1 }),
    lines('Threads', 'By replica. It stays where it was after the start; a rise that goes on is something that blocks, and a bug.', 'short', [q(of('process_threads'), '{{instance}}')]),
    lines('Up since', 'Age of each process. A line that falls again and again is a replica that is restarted: its log\'s last lines and its exit code say why.', 's',
      [q(`time() - ${of('process_start_time_seconds')}`, '{{instance}}')]),
    lines('Lines dropped', 'Lines that found no room, as whoever reads the log stood still, or that the disk of the audit log did not take. Logins do not wait for them.', 'short', [
      q(`sum by (instance) (increase(${of('scanlogin_log_lines_dropped_total')}[$__rate_interval]))`, 'log of {{instance}}'),
      q(`sum by (instance) (increase(${of('scanlogin_audit_lines_dropped_total')}[$__rate_interval]))`, 'audit log of {{instance}}'),
    ]),
    lines('Spans of traces', 'What went to the collector, where one is set. Those dropped found it away or slow, which the log says once; logins do not wait for it.', 'ops',
      [q(rates('outcome', 'scanlogin_trace_spans_total'), '{{outcome}}')]),
  ],
}

function target({ expr, legendFormat }, index, type) {
  // What is one number or a table is asked for once, as of the end.
  const instant = type !== 'timeseries'
  return {
    datasource: DATASOURCE, editorMode: 'code', expr, instant, legendFormat, range: !instant, refId: String.fromCharCode(65 + index),
    ...(type === 'table' && { format: 'table' }),
  }
}

const OPTIONS = {
  stat: ({ textMode = 'auto' }) => ({
    colorMode: 'value', graphMode: 'none', justifyMode: 'auto', orientation: 'auto', textMode,
    reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false },
  }),
  timeseries: () => ({ legend: { calcs: ['lastNotNull', 'max'], displayMode: 'table', placement: 'bottom', showLegend: true }, tooltip: { mode: 'multi', sort: 'desc' } }),
  bargauge: () => ({
    displayMode: 'basic', namePlacement: 'auto', orientation: 'horizontal', showUnfilled: true, valueMode: 'color',
    reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false },
  }),
  table: () => ({ showHeader: true }),
}

function defaults({ type, unit, decimals, mappings, min = 0, max, stacked, thresholds: steps }) {
  const custom = { drawStyle: 'line', fillOpacity: stacked ? 30 : 5, lineWidth: 1, showPoints: 'never', stacking: { mode: stacked ? 'normal' : 'none' } }
  return {
    unit,
    ...(type === 'timeseries' && { custom, ...(min !== null && { min }) }),
    ...(max !== undefined && { max }),
    ...(decimals !== undefined && { decimals }),
    ...(mappings && { mappings }),
    ...(steps && { thresholds: steps }),
  }
}

function panel(made, id, x, y) {
  const { type, width, title, description, queries } = made
  return {
    id, type, title, description, datasource: DATASOURCE,
    gridPos: { h: HEIGHTS[type] ?? 8, w: width, x, y },
    fieldConfig: { defaults: defaults(made), overrides: [] },
    options: OPTIONS[type](made),
    targets: queries.map((query, index) => target(query, index, type)),
    // The columns of what Prometheus counts, which say nothing.
    ...(type === 'table' && { transformations: [{ id: 'organize', options: { excludeByName: { Time: true, Value: true } } }] }),
  }
}

/** From left to right, and on a new line where the next is too wide. */
function* placed() {
  let [id, y] = [0, 0]
  for (const [title, panels] of Object.entries(ROWS)) {
    yield { id: id += 1, type: 'row', title, collapsed: false, gridPos: { h: 1, w: WIDTH, x: 0, y }, panels: [] }
    let [x, tallest] = [0, 0]
    y += 1
    for (const made of panels) {
      if (x + made.width > WIDTH) [x, y, tallest] = [0, y + tallest, 0]
      const next = panel(made, id += 1, x, y)
      yield next
      x += made.width
      tallest = Math.max(tallest, next.gridPos.h)
    }
    y += tallest
  }
}

/** Where nothing has the label, as the namespace outside Kubernetes, all is still all. */
const variable = (name, label, query) => ({
  name, label, type: 'query', datasource: DATASOURCE, definition: query, query: { query, refId: name }, refresh: 2, sort: 1,
  includeAll: true, multi: true, allValue: name === 'job' ? undefined : '.*', current: { selected: true, text: ['All'], value: ['$__all'] },
})

export const dashboard = {
  uid: 'scanlogin',
  title: 'scanlogin',
  description: 'Whether people can log in, where they get lost, and what it is due to. Runbooks: docs/operations.md.',
  tags: ['scanlogin'],
  schemaVersion: 39,
  version: 1,
  editable: true,
  graphTooltip: 1,
  refresh: '30s',
  timezone: 'browser',
  time: { from: 'now-3h', to: 'now' },
  annotations: {
    list: [
      // Where a roll or a crash was, in every panel.
      {
        name: 'Starts', datasource: DATASOURCE, enable: true, iconColor: 'blue', titleFormat: 'started', textFormat: '{{instance}}',
        expr: `changes(${of('process_start_time_seconds')}[1m]) > 0 or (${of('process_start_time_seconds')} unless ${of('process_start_time_seconds')} offset 1m)`,
      },
    ],
  },
  templating: {
    list: [
      { name: 'datasource', label: 'Prometheus', type: 'datasource', query: 'prometheus', refresh: 1, current: {} },
      variable('namespace', 'Namespace', 'label_values(scanlogin_build_info, namespace)'),
      variable('job', 'Job', 'label_values(scanlogin_build_info{namespace=~"$namespace"}, job)'),
      variable('replica', 'Replica', 'label_values(scanlogin_build_info{namespace=~"$namespace", job=~"$job"}, instance)'),
      variable('client', 'Site', 'label_values(scanlogin_scans_total{namespace=~"$namespace", job=~"$job"}, client)'),
    ],
  },
  panels: [...placed()],
}
