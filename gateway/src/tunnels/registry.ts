export type { EnvironmentRoute } from './route.ts';
