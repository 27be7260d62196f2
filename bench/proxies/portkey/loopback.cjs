// Portkey's gateway listens on all addresses and has no setting for it: on this machine's own only.
const { Server } = require("node:net");
const listen = Server.prototype.listen;
Server.prototype.listen = function (port, ...rest) {
  return listen.call(this, port, "127.0.0.1", ...rest.filter((it) => typeof it === "function"));
};
