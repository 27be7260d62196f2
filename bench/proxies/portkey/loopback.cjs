// Portkey's gateway has settings for neither: it listens on all addresses, and not on this machine's own
// only; and it closes connections that were quiet for 5 seconds, not for nginx's 75.
const { Server } = require("node:net");
const listen = Server.prototype.listen;
Server.prototype.listen = function (port, ...rest) {
  this.keepAliveTimeout = 75_000;
  return listen.call(this, port, "127.0.0.1", ...rest.filter((it) => typeof it === "function"));
};
