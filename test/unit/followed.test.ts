/** What is followed in the directory, when answers come in another order than they were asked for. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { follow } from '../../gateway/src/access/followed.ts';
import type { DirectoryChange } from '../../gateway/src/directory/directory.ts';
import { createManualClock } from '../support/manual-clock.ts';

const log = { warn: () => undefined };

/** A directory whose answers come when the test says so. */
const createAnswers = () => {
  const asked: PromiseWithResolvers<string>[] = [];
  let tell: (change: DirectoryChange) => void = () => assert.fail('nobody watches');
  return {
    read: () => {
      const answer = Promise.withResolvers<string>();
      asked.push(answer);
      return answer.promise;
    },
    directory: {
      watch: (listener: (change: DirectoryChange) => void) => {
        tell = listener;
        return () => (tell = () => undefined);
      },
    },
    change: () => tell({ kind: 'blocks' }),
    answer: (index: number, value: string) => asked[index]?.resolve(value),
  };
};

const start = (answers: ReturnType<typeof createAnswers>) =>
  follow(
    { directory: answers.directory, clock: createManualClock(), log },
    { read: answers.read, isAbout: ({ kind }) => kind === 'blocks', failure: 'not read' },
  );

test('an answer that was overtaken by a later one is dropped', async () => {
  const answers = createAnswers();
  const starting = start(answers);
  answers.answer(0, 'first');
  const followed = await starting;
  answers.change();
  answers.change();
  const told = Promise.withResolvers<void>();
  let times = 0;
  followed.onChange(() => (times += 1) === 2 && told.resolve());
  answers.answer(2, 'newest');
  answers.answer(1, 'overtaken');
  await told.promise;
  assert.equal(followed.current(), 'newest');
  followed.close();
});

test('what was read first counts until what changed meanwhile has been read', async () => {
  const answers = createAnswers();
  const starting = start(answers);
  answers.change();
  answers.answer(0, 'first');
  const followed = await starting;
  assert.equal(followed.current(), 'first');
  const told = new Promise<void>((resolve) => followed.onChange(resolve));
  answers.answer(1, 'changed');
  await told;
  assert.equal(followed.current(), 'changed');
  followed.close();
});
