FROM debian:trixie-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends nodejs postgresql-client \
        curl ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 1001 --no-create-home nextjs

COPY app /app
COPY database.sh screen.sh umami.sh /usr/local/lib/umami/

# Next keeps what it renders there
RUN mkdir -p /app/.next/cache && chown nextjs: /app/.next/cache

ENV NODE_ENV=production NEXT_TELEMETRY_DISABLED=1 HOSTNAME=0.0.0.0 PORT=3000
WORKDIR /app
USER nextjs
EXPOSE 3000
CMD ["bash", "/usr/local/lib/umami/umami.sh"]
