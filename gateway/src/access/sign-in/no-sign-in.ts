/** The apex of a gateway where nobody can sign in: a page that says what this is. */
import { answerPage } from './answers.ts';
import { PATHS, signedOutLandingPage } from './pages.ts';
import { registerRoutes } from './routes.ts';

export const apexWithoutSignIn = registerRoutes([
  {
    method: 'GET',
    url: PATHS.home,
    async serve(exchange) {
      answerPage(exchange, signedOutLandingPage(exchange.host, false));
    },
  },
]);
