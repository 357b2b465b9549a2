/** The HTTP API of `api.<domain>`: runners join, renew, and ask which gateways there are. */
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import type * as z from 'zod';
import type { Clock } from '../../../shared/src/clock.ts';
import { RefusedError } from '../../../shared/src/errors.ts';
import type { Refusal } from '../../../shared/src/errors.ts';
import {
  GATEWAYS_PATH,
  JOIN_PATH,
  joinRequestSchema,
  RENEW_PATH,
  renewRequestSchema,
} from '../../../shared/src/identity/enrolment.ts';
import type { ApiError, JoinRequest, RenewRequest } from '../../../shared/src/identity/enrolment.ts';
import { keyFingerprint } from '../../../shared/src/identity/keys.ts';
import type { GatewayAddress } from '../../../shared/src/protocol/messages.ts';
import type { Directory } from '../directory/directory.ts';
import { GATEWAY_LIMITS } from '../limits.ts';
import type { GatewayLimits } from '../limits.ts';
import { addressKey, createAttempts } from './attempts.ts';
import { createEnrolment, parseJoinKey, ReplayedError } from './enrolment.ts';

export interface ApiDeps {
  readonly directory: Directory;
  readonly clock: Clock;
  readonly log: Logger;
  readonly gateways: () => readonly GatewayAddress[];
  /** Another authority, where every runner comes from: nobody joins here. */
  readonly onlyIssuer?: string | undefined;
  /** Host names of the API, lower-case: `api.<domain>` of each domain. Signatures are made for the one that was asked. */
  readonly audiences: readonly string[];
  readonly limits?: Pick<GatewayLimits, 'maxApiBodyBytes' | 'apiAttemptsPerRunner' | 'apiAttemptsPerAddress'>;
  /** Address of the client, where it is not that of the socket. */
  readonly clientAddress?: (request: FastifyRequest) => string;
  /** For metrics: `ok`, or the code of the error. */
  readonly onJoin?: (result: string) => void;
  readonly onRenew?: (result: string) => void;
}

/** Status of each refusal that can occur here; the others belong to legs. */
const REFUSAL_STATUS: Partial<Record<Refusal, number>> = {
  token_invalid: 401,
  token_expired: 401,
  token_used: 401,
  runner_unknown: 404,
  runner_mismatch: 403,
  key_mismatch: 403,
  revoked: 403,
  clock_skew: 400,
  limit: 429,
  unavailable: 503,
};

/** Whether the directory is back is asked again after this, ms. */
const UNAVAILABLE_RETRY_MS = 5_000;

/** A fault of the request as such, before anything was decided about the runner. */
class RequestError extends Error {
  override readonly name = 'RequestError';
  readonly code: string;
  readonly status: number;
  constructor(code: string, status: number, message: string) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

interface Fault {
  readonly status: number;
  readonly error: Omit<ApiError['error'], 'requestId'>;
}

const fastifyFault = (error: FastifyError): Fault | undefined => {
  switch (error.code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return { status: 413, error: { code: 'body_too_large', message: 'The body of the request is too large.' } };
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return {
        status: 415,
        error: { code: 'unsupported_media_type', message: 'The body has to be application/json.' },
      };
    default:
      if (error.statusCode === undefined || error.statusCode < 400 || error.statusCode >= 500) return undefined;
      return { status: 400, error: { code: 'bad_request', message: 'The body is not valid JSON.' } };
  }
};

const toFault = (error: unknown): Fault => {
  if (error instanceof RefusedError) {
    const { code, message, serverTime } = error;
    const retryAfterMs = error.retryAfterMs ?? (code === 'unavailable' ? UNAVAILABLE_RETRY_MS : undefined);
    return {
      status: REFUSAL_STATUS[code] ?? 403,
      error: {
        code,
        message,
        ...(serverTime === undefined ? {} : { serverTime }),
        ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
      },
    };
  }
  if (error instanceof ReplayedError) return { status: 400, error: { code: error.code, message: error.message } };
  if (error instanceof RequestError) {
    return { status: error.status, error: { code: error.code, message: error.message } };
  }
  return (
    fastifyFault(error as FastifyError) ?? {
      status: 500,
      error: { code: 'internal', message: 'The gateway could not handle the request.' },
    }
  );
};

/** The body of a request, or a RequestError that names every fault with its path. */
const parseBody = <S extends z.ZodType>(schema: S, body: unknown): z.output<S> => {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const faults = result.error.issues.map(({ path, message }) => `${path.join('.') || 'body'}: ${message}`);
  throw new RequestError('bad_request', 400, `The request is not valid. ${faults.join('; ')}`);
};

/** Host the request is for: `:authority` before `host` (RFC 9113 section 8.3.1), without port and final dot. */
const hostOf = (request: FastifyRequest): string => {
  const { headers } = request.raw;
  const authority = (headers[':authority'] as string | undefined) ?? headers.host ?? '';
  return authority.toLowerCase().replace(/:\d*$/, '').replace(/\.$/, '');
};

/** What a refusal's log line says of who asked; nothing of it is checked yet. */
const describeClaimant = (body: unknown): { runnerId?: string; key?: string } => {
  const { runnerId, publicKey } = (typeof body === 'object' && body !== null ? body : {}) as Partial<JoinRequest>;
  const key = typeof publicKey === 'string' ? parseJoinKey(publicKey) : undefined;
  return {
    ...(typeof runnerId === 'string' ? { runnerId: runnerId.slice(0, 64) } : {}),
    ...(key ? { key: keyFingerprint(key) } : {}),
  };
};

const createHandlers = (deps: ApiDeps, limits: NonNullable<ApiDeps['limits']>) => {
  const { clock, log } = deps;
  const enrolment = createEnrolment(deps);
  const perRunner = createAttempts({ clock }, { limit: () => limits.apiAttemptsPerRunner });
  const perAddress = createAttempts({ clock }, { limit: () => limits.apiAttemptsPerAddress });

  const addressOf = (request: FastifyRequest): string => deps.clientAddress?.(request) ?? request.ip;
  const refuseBeyond = (retryAfterMs: number | undefined): void => {
    if (retryAfterMs !== undefined) throw new RefusedError('limit', { retryAfterMs });
  };
  /** The key on record, for the log: in a renewal the request names none. */
  const recordedKey = async (runnerId: string | undefined): Promise<string | undefined> => {
    const runner = runnerId === undefined ? undefined : await deps.directory.runner(runnerId).catch(() => undefined);
    return runner?.publicKey && keyFingerprint(runner.publicKey);
  };

  return {
    checkHost(request: FastifyRequest): string {
      const host = hostOf(request);
      if (deps.audiences.includes(host)) return host;
      throw new RequestError('misdirected', 421, 'The API of the gateway is not served at this host.');
    },
    countAddress: (request: FastifyRequest): void => refuseBeyond(perAddress.take(addressKey(addressOf(request)))),
    /** By runner and address: whoever knows the id of a runner cannot use up its attempts from elsewhere. */
    countRunner: (request: FastifyRequest, runnerId: string): void =>
      refuseBeyond(perRunner.take(`${runnerId} ${addressKey(addressOf(request))}`)),
    enrolment,
    async logRefusal(request: FastifyRequest, fault: Fault, cause: unknown): Promise<void> {
      const claimant = describeClaimant(request.body);
      const { code } = fault.error;
      const fields = {
        code,
        status: fault.status,
        ...claimant,
        recordedKey: await recordedKey(claimant.runnerId),
        remoteAddress: addressOf(request),
        path: request.routeOptions.url,
        requestId: request.id,
      };
      if (fault.status >= 500) log.error({ ...fields, err: cause }, 'an API request failed');
      else log.warn(fields, `an API request was refused: ${code}`);
    },
  };
};

type Handlers = ReturnType<typeof createHandlers>;

const enrolmentRoute = <R extends RenewRequest>(
  handlers: Handlers,
  deps: ApiDeps,
  kind: {
    readonly schema: z.ZodType<R>;
    readonly run: (audience: string, request: R) => ReturnType<Handlers['enrolment']['renew']>;
    readonly done: string;
  },
) => {
  return async (request: FastifyRequest, reply: FastifyReply): Promise<unknown> => {
    const audience = handlers.checkHost(request);
    const body = parseBody(kind.schema, request.body);
    handlers.countRunner(request, body.runnerId);
    const answer = await kind.run(audience, body);
    deps.log.info({ runnerId: body.runnerId, ...describeClaimant(body), requestId: request.id }, kind.done);
    return reply.send(answer);
  };
};

/** Reports the outcome of a route once: `ok`, or the code of what was thrown. */
const reported =
  (
    handler: (request: FastifyRequest, reply: FastifyReply) => Promise<unknown>,
    report: ((result: string) => void) | undefined,
  ) =>
  async (request: FastifyRequest, reply: FastifyReply): Promise<unknown> => {
    try {
      const answer = await handler(request, reply);
      report?.('ok');
      return answer;
    } catch (error) {
      report?.(toFault(error).error.code);
      throw error;
    }
  };

/** Registers the API's routes on `app`, which the edge gives the requests for `api.<domain>`. */
export const registerApi = (app: FastifyInstance, deps: ApiDeps): void => {
  const limits = deps.limits ?? GATEWAY_LIMITS;
  const handlers = createHandlers(deps, limits);
  const join = enrolmentRoute<JoinRequest>(handlers, deps, {
    schema: joinRequestSchema,
    run: (audience, request) => handlers.enrolment.join(audience, request),
    done: 'a runner joined',
  });
  const renew = enrolmentRoute<RenewRequest>(handlers, deps, {
    schema: renewRequestSchema,
    run: (audience, request) => handlers.enrolment.renew(audience, request),
    done: 'a runner renewed its membership',
  });
  const otherMethod = (allow: string) => async (request: FastifyRequest, reply: FastifyReply) => {
    handlers.checkHost(request);
    void reply.header('allow', allow);
    throw new RequestError('method_not_allowed', 405, `Only ${allow} is allowed here.`);
  };

  void app.register(async (scope) => {
    scope.addHook('onSend', async (_request, reply) => void reply.header('cache-control', 'no-store'));
    scope.setErrorHandler(async (error, request, reply) => {
      const fault = toFault(error);
      await handlers.logRefusal(request, fault, error);
      const { retryAfterMs } = fault.error;
      if (retryAfterMs !== undefined) void reply.header('retry-after', String(Math.ceil(retryAfterMs / 1_000)));
      const body: ApiError = { error: { ...fault.error, requestId: request.id } };
      return reply.code(fault.status).send(body);
    });
    const options = {
      bodyLimit: limits.maxApiBodyBytes,
      // Before the body is read: an address that is over its limit costs no more than its head.
      onRequest: async (request: FastifyRequest) => handlers.countAddress(request),
    };
    scope.post(JOIN_PATH, options, reported(join, deps.onJoin));
    scope.post(RENEW_PATH, options, reported(renew, deps.onRenew));
    scope.get(GATEWAYS_PATH, async (request, reply) => {
      handlers.checkHost(request);
      const { issuer, trust } = await deps.directory.authority();
      return reply.send({ gateways: [...deps.gateways()], issuer, trust });
    });
    const rest = ['DELETE', 'OPTIONS', 'PATCH', 'PUT'];
    scope.route({ method: ['GET', 'HEAD', ...rest], url: JOIN_PATH, handler: otherMethod('POST') });
    scope.route({ method: ['GET', 'HEAD', ...rest], url: RENEW_PATH, handler: otherMethod('POST') });
    scope.route({ method: ['POST', ...rest], url: GATEWAYS_PATH, handler: otherMethod('GET, HEAD') });
  });
};
