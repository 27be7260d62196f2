# Tidegate in a container: the program and its configuration; no shell, no package manager, no root.
#
#   docker build -t tidegate .
#   docker run --rm -p 127.0.0.1:8080:8080 -e CEREBRAS_API_KEY tidegate

# The tag names the compiler that rust-toolchain.toml pins. That file itself is not copied: it also
# asks for clippy and rustfmt, which the image does not have and a build does not need.
FROM docker.io/library/rust:1.95-slim-bookworm AS build
WORKDIR /build

# No path of this stage is in the program, so that it is the same wherever it is built: not in what the
# compiler writes for panics, and not in what the C compiler does for assertions.
ENV RUSTFLAGS="--remap-path-prefix=/build=. --remap-path-prefix=/usr/local/cargo=cargo" \
    CFLAGS="-ffile-prefix-map=/build=. -ffile-prefix-map=/usr/local/cargo=cargo"

# The dependencies first, around an empty program: this layer changes only when the lock file or the profile does.
COPY Cargo.toml Cargo.lock build.rs ./
COPY release release
COPY src/usage/tokenizer/table.rs src/usage/tokenizer/
RUN mkdir -p src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && release/build

# `touch`, because the copied sources are older than what was just built from the empty ones.
COPY config config
COPY src src
RUN touch src/main.rs src/lib.rs \
    && release/build \
    && mkdir -p /out/usr/local/bin /out/etc/tidegate /state/tidegate \
    && objcopy --strip-all target/release/tidegate /out/usr/local/bin/tidegate \
    && cp config/tidegate.toml /out/etc/tidegate/
COPY LICENSE-MIT LICENSE-APACHE /out/usr/share/doc/tidegate/

# glibc, libgcc and the CA certificates, and a user `nonroot` (65532).
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out /
# An empty directory of the user's own, for the state that outlives a container: a volume mounted
# there belongs to the user as well.
COPY --from=build --chown=65532:65532 /state /var/lib

# By number, so that an orchestrator can see that it is not root.
USER 65532:65532

# A container's loopback is of no use to anybody else; publish the port on the host's as needed. The admin
# port stays on that loopback, where the health check finds it. To have it outside takes a token, too:
#   -p 127.0.0.1:9464:9464 -e TIDEGATE_SERVER_ADMIN=0.0.0.0:9464 -e TIDEGATE_ADMIN_TOKEN
# or, in a network where all may see it, TIDEGATE_SERVER_ADMIN_OPEN=true in the place of the token.
ENV TIDEGATE_SERVER_LISTEN=0.0.0.0:8080 \
    TIDEGATE_STATE_DIR=/var/lib/tidegate

# The quota used today and the usage history. Without a volume of a name, each new container begins
# with an empty one.
VOLUME /var/lib/tidegate

EXPOSE 8080 9464

# Asks http://127.0.0.1:9464/readyz; there is no shell or curl to do it. Where the admin port speaks TLS,
# say so: tidegate healthcheck https://localhost:9464/readyz --ca FILE
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/tidegate", "healthcheck"]

ENTRYPOINT ["/usr/local/bin/tidegate"]
CMD ["serve", "--config", "/etc/tidegate/tidegate.toml"]
