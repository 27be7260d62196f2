"""The load test that the project started from, as it was written.

Only key, address and model are arguments: seed_script.py KEY BASE_URL MODEL
"""

import asyncio
import sys
import time

from cerebras.cloud.sdk import Cerebras

API_KEY, BASE_URL, MODEL = sys.argv[1:]

cerebras = Cerebras(api_key=API_KEY, base_url=BASE_URL)

async def test_rate_limits():
    start_time = time.time()
    jobs_processed = 0
    total_tokens = 0
    
    for i in range(10):  # Test 10 requests
        try:
            response = cerebras.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "Hello"}],
                max_tokens=10
            )
            jobs_processed += 1
            total_tokens += response.usage.total_tokens
            await asyncio.sleep(0.5)  # 2 req/s
        except Exception as e:
            print(f"Error: {e}")
    
    elapsed = time.time() - start_time
    print(f"Processed: {jobs_processed} jobs in {elapsed:.2f}s")
    print(f"Rate: {jobs_processed/elapsed:.2f} jobs/sec")
    print(f"Tokens used: {total_tokens}")

asyncio.run(test_rate_limits())
