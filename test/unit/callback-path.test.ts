import assert from 'node:assert/strict';
import { test } from 'node:test';
import { refuseCallback } from '../../gateway/src/oauth/callback-path.ts';

const FORM = ['Content-Type', 'application/x-www-form-urlencoded'];
const get = (target: string) => refuseCallback({ method: 'GET', target, rawHeaders: [] });
const post = (...rawHeaders: string[]) =>
  refuseCallback({ method: 'POST', target: '/oauth/github/callback', rawHeaders });

test('what is a callback', () => {
  const longest = `a${'-'.repeat(31)}`;
  for (const scm of ['github', 'g', '0', 'azure-devops', 'bitbucket2', longest]) {
    assert.equal(get(`/oauth/${scm}/callback`), undefined, scm);
    assert.equal(get(`/oauth/${scm}/callback?code=a/b?c&state=%2F`), undefined, scm);
  }
});

test('what is none', () => {
  for (const target of [
    '/',
    '/oauth',
    '/oauth/callback',
    '/oauth//callback',
    '/oauth/github/callback/',
    '/oauth/github/callback/more',
    '/oauth/github/callbacks',
    '/oauth/github/callback;a=b',
    '/oauth/github/callback%3Fcode=a',
    '/oauth/github/x/callback',
    '/oauth/-github/callback',
    '/oauth/GitHub/callback',
    '/oauth/git_hub/callback',
    '/oauth/git%68ub/callback',
    `/oauth/a${'b'.repeat(32)}/callback`,
    '/oauth/../oauth/github/callback',
    '//oauth/github/callback',
    '/OAuth/github/callback',
    '/x/oauth/github/callback',
    '?/oauth/github/callback',
    '*',
  ]) {
    assert.equal(get(target), 'not_found', target);
  }
});

test('methods', () => {
  const target = '/oauth/github/callback';
  for (const method of ['HEAD', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'get', 'QUERY']) {
    assert.equal(refuseCallback({ method, target, rawHeaders: FORM }), 'login_method_not_allowed', method);
  }
  // Other paths are not there at all, whatever the method.
  assert.equal(refuseCallback({ method: 'PUT', target: '/', rawHeaders: [] }), 'not_found');
});

test('a POST is a form', () => {
  assert.equal(post(...FORM), undefined);
  assert.equal(post('content-type', 'Application/X-WWW-Form-Urlencoded ; charset=UTF-8'), undefined);
  assert.equal(post(), 'unsupported_media_type');
  assert.equal(post('content-type', 'application/x-www-form-urlencodedx'), 'unsupported_media_type');
  assert.equal(post('content-type', 'multipart/form-data; boundary=x'), 'unsupported_media_type');
  assert.equal(post('content-type', 'application/json'), 'unsupported_media_type');
  assert.equal(post(...FORM, 'content-type', 'text/plain'), 'unsupported_media_type');
});
