import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { loggedPath, MAX_LOGGED_PATH } from '../../gateway/src/observability/access-log.ts';
import { createLogger, SECRET_FIELDS } from '../../gateway/src/observability/log.ts';
import { createMetrics } from '../../gateway/src/observability/metrics.ts';

describe('the log', () => {
  it('redacts every secret field, three levels deep', () => {
    const lines: string[] = [];
    const log = createLogger({ destination: { write: (line: string) => void lines.push(line) } });
    for (const field of SECRET_FIELDS) {
      log.info({ [field]: 'canary', a: { [field]: 'canary', b: { [field]: 'canary' } } }, 'event');
    }
    assert.equal(lines.length, SECRET_FIELDS.length);
    assert.ok(!lines.join('').includes('canary'));
  });

  it('has the path of a request and nothing behind it', () => {
    assert.equal(loggedPath('/oauth/github/callback?code=1&state=2'), '/oauth/github/callback');
    assert.equal(loggedPath('/a#b?c'), '/a');
    assert.equal(loggedPath('*'), '*');
    assert.equal(loggedPath(`/${'x'.repeat(2_000)}`).length, MAX_LOGGED_PATH + 1);
  });
});

describe('metrics', () => {
  const snapshot = {
    legs: new Map([['quic', 2]]),
    openStreams: 3,
    bytesSent: 10,
    bytesReceived: 20,
    unauthenticated: 1,
    turnedAway: 4,
  };

  it('of two gateways in one process are apart', async () => {
    const [one, two] = [createMetrics({ tunnels: () => snapshot }), createMetrics({ tunnels: () => snapshot })];
    one.setUp(true);
    one.joined('ok');
    assert.match(await one.text(), /^gitpod_gateway_proxy_up 1$/m);
    assert.match(await two.text(), /^gitpod_gateway_proxy_up 0$/m);
    assert.ok(!(await two.text()).includes('joins_total{'));
  });

  it('have their names and labels, and counters that do not grow by being read', async () => {
    const metrics = createMetrics({ tunnels: () => snapshot });
    metrics.requestStarted();
    metrics.requestStarted();
    metrics.requestEnded({
      protocol: 'h2',
      status: 502,
      durationMs: 40,
      upstreamMs: undefined,
      errorCode: 'upstream_refused',
    });
    metrics.legClosed('revoked');
    metrics.echoed(3);
    await metrics.text();
    const text = await metrics.text();
    for (const line of [
      'proxy_http_requests_total{protocol="h2",status_code="502"} 1',
      'proxy_http_requests_in_flight 1',
      'proxy_http_request_duration_seconds_count{protocol="h2"} 1',
      'proxy_http_backend_failures_total{error_type="upstream_refused"} 1',
      'legs{transport="quic"} 2',
      'leg_rtt_seconds_count 1',
      'tunnel_streams_open 3',
      'tunnel_bytes_total{direction="sent"} 10',
      'tunnel_bytes_total{direction="received"} 20',
      'legs_closed_total{reason="revoked"} 1',
      'connections_turned_away_total 4',
    ]) {
      assert.ok(text.split('\n').includes(`gitpod_gateway_${line}`), line);
    }
  });
});
